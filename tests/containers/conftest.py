"""The images, built once, and containers of them on one private network.

The tests need a Docker engine; in CI there must be one. Ryuk is disabled: it would have to come from a registry, and
each test ends the containers that it started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from support.bots import free_port
from support.paths import ROOT
from support.processes import environment

os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"


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
    """Fail without a Docker engine in CI, and skip the test elsewhere."""
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
    """Build the images of compose.yaml: the sidecar, the simulator and the bot."""
    _docker("compose", "--profile", "offline", "build", "--quiet")


@dataclass
class Checkout:
    """A fresh clone of the repository without ``.env`` and secrets, in which tests run the commands of the pages."""

    folder: Path
    env: dict[str, str]
    bot: str
    """The bot's address."""

    def run(self, script: str, *, timeout: float = 180, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a script until it ends. Its output is in ``stdout``."""
        return subprocess.run(
            ["bash", "-e"], input=script, cwd=self.folder, env={**self.env, **env}, timeout=timeout, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    @contextlib.contextmanager
    def running(self, line: str) -> Iterator[None]:
        """Run a command in the foreground, wait until the bot answers, and end it with Ctrl-C after the block."""
        with (self.folder / "output").open("w+") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.env, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                until = time.monotonic() + 120
                while not self._answers():
                    assert process.poll() is None, (self.folder / "output").read_text()
                    assert time.monotonic() < until, (self.folder / "output").read_text()
                    time.sleep(0.2)
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=60)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.bot}/talk", trust_env=False, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def checkout(images: None, tmp_path: Path) -> Iterator[Checkout]:
    """Yield a clone with its own ports and Compose project, and remove everything that was started there."""
    folder = tmp_path / "clone"
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    shutil.copy(ROOT / "compose.yaml", folder)
    names = {
        "COMPOSE_PROJECT_NAME": "slng-sidecar-test",
        "SIDECAR_PORT": str(free_port()),
        "BOT_PORT": str(free_port()),
    }
    kept = {name: value for name, value in environment().items() if not name.startswith(("OPENAI_", "COMPOSE_"))}
    clone = Checkout(folder, {**kept, **names}, f"http://localhost:{names['BOT_PORT']}")
    try:
        yield clone
    finally:
        every = "docker compose -f compose.yaml -f deploy/compose.unix.yaml --profile offline"
        clone.run(f"{every} down --volumes --remove-orphans --timeout 10", SLNG_API_KEY_FILE="", OPENAI_API_KEY_FILE="")
