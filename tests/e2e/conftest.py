"""A gateway and a simulator in processes of their own, which the tests of a module share."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from support.processes import COMMAND, environment


@pytest.fixture(scope="module")
def shared_gateway() -> Iterator[str]:
    """The address of a running ``serve --simulate``."""
    with running("serve", "--simulate", "--port", "0", "--log-level", "error") as url:
        yield url


@pytest.fixture(scope="module")
def signal_simulator() -> Iterator[str]:
    """The address of a simulator without speech engines. The numbered signal needs none."""
    with running("simulate", "--port", "0", "--speech", "signal") as url:
        yield url


@pytest.fixture(scope="module")
def signal_gateway(signal_simulator: str) -> Iterator[str]:
    """The address of a gateway in front of that simulator."""
    with running("serve", "--simulator", signal_simulator, "--port", "0", "--log-level", "error") as url:
        yield url


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[str]:
    """Run ``slng-sidecar`` while the block runs, and yield the address that it prints."""
    process = subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, env=environment(), text=True)
    assert process.stderr is not None
    try:
        said = ""
        while (
            found := re.search(r"^(?:slng-sidecar|SLNG simulator) .*?at (\w+://[^\s,]+)", said, re.MULTILINE)
        ) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in rest
