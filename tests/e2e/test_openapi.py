"""Every request that OpenAPI allows, and many that it does not, gets a reply that OpenAPI describes."""

from __future__ import annotations

import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode
from support.processes import COMMAND, environment

pytestmark = pytest.mark.slow

load_all_checks()
# The first two checks require a schema to describe all accepted input, which is impossible for a model's grammar and
# for readable audio. The third one has no exception for upstream, which returns no audio for a text such as "…".
_NOT_FOR_US = {"positive_data_acceptance", "negative_data_rejection", "not_a_server_error"}
_CHECKS = [check for check in CHECKS.get_all() if check.__name__ not in _NOT_FOR_US]


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    """Yield the schema of a gateway whose upstream answers at once."""
    simulator = ("simulate", "--port", "0", "--speech", "tone", "--set", "upgrade_ms=0", "--set", "ready_ms=0")
    fast = ("--set", "pace=0", "--set", "first_audio_ms=0")
    with (
        _running(simulator + fast, says=r"(ws://\S+:\d+)") as upstream,
        _running(
            ("serve", "--port", "0", "--log-level", "error"), says=r" at (http://\S+?),",
            SLNG_BASE_URL=upstream, SLNG_API_KEY="key-of-the-test",
        ) as url,
    ):  # fmt: skip
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


class _running:
    """A command that runs while the block runs. It yields the address that the command logs."""

    def __init__(self, command: tuple[str, ...], *, says: str, **env: str) -> None:
        self._says = says
        self._process = subprocess.Popen([COMMAND, *command], stderr=subprocess.PIPE, env=environment(**env), text=True)

    def __enter__(self) -> str:
        assert self._process.stderr is not None
        output = ""
        while (found := re.search(self._says, output)) is None:
            line = self._process.stderr.readline()
            assert line, output
            output += line
        return found.group(1)

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        _, rest = self._process.communicate(timeout=20)
        assert "Traceback" not in rest, rest
        assert self._process.returncode == 0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_openapi_describes_every_reply(api: Any, mode: GenerationMode) -> None:
    asked: set[str] = set()
    statuses: Counter[int] = Counter()
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: Any) -> None:
            reply = case.call_and_validate(checks=_CHECKS, timeout=20)
            assert reply.status_code < 500 or reply.json()["error"]["code"] == "provider_error", reply.text
            statuses[reply.status_code] += 1

        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # there is nothing in it that can be wrong
        check()
        asked.add(operation.label)
    assert {"POST /v1/audio/speech", "POST /v1/audio/transcriptions"} <= asked
    assert statuses[400]
    assert statuses[200] or mode is GenerationMode.NEGATIVE
