"""The images, built once, and containers of them on one network of their own.

They run where a Docker engine is; in CI there must be one. Ryuk is off: it would have to come from a registry, and
every container here is ended by the test that started it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import environment

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

ROOT = Path(__file__).parents[2]


def _docker(*arguments: str, timeout: float = 600) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def engine() -> None:
    """Insist on an engine in CI; elsewhere skip without one."""
    reason = "docker is not installed"
    if shutil.which("docker"):
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return
        reason = "no Docker engine answers"
    assert not os.environ.get("CI"), f"CI must have Docker: {reason}"
    pytest.skip(reason)


@pytest.fixture(scope="session")
def images(engine: None) -> None:
    """Build what compose.yaml names: the sidecar, the one with the simulator, and the bot."""
    _docker("compose", "--profile", "offline", "build", "--quiet", "sidecar", "sidecar-offline", "bot-offline")


@pytest.fixture
def composed(images: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Run the offline profile as a user would, on ports of its own; give its addresses."""
    from bots import free_port

    ports = {"SIDECAR_PORT": str(free_port()), "BOT_PORT": str(free_port())}
    for name, value in ports.items():
        monkeypatch.setenv(name, value)
    compose = ["compose", "--project-name", "slng-sidecar-test", "--profile", "offline"]
    services = ["sidecar-offline", "bot-offline"]
    env = {**environment(), **ports}
    try:
        subprocess.run(
            ["docker", *compose, "up", "--detach", "--wait", *services], cwd=ROOT, env=env, timeout=180, check=True
        )
        yield {"sidecar": f"http://localhost:{ports['SIDECAR_PORT']}", "bot": f"http://localhost:{ports['BOT_PORT']}"}
    finally:
        subprocess.run(["docker", *compose, "down", "--timeout", "10"], cwd=ROOT, env=env, timeout=120, check=False)
