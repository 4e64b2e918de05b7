"""A gateway with the simulator, in processes of their own, that the tests of a module share."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from support.processes import COMMAND, environment


@pytest.fixture(scope="module")
def shared_gateway() -> Iterator[str]:
    """Give the address of a running ``serve --simulate``."""
    process = subprocess.Popen(
        [COMMAND, "serve", "--simulate", "--port", "0", "--log-level", "error"],
        stderr=subprocess.PIPE, env=environment(), text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = ""
        while (found := re.search(r" at (http://\S+)", said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in rest
