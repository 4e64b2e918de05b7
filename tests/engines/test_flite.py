"""The voices of flite."""

from __future__ import annotations

import subprocess

import pytest
from slng_sidecar.engines import flite
from slng_sidecar.engines.interface import Timbre
from support.processes import need

TIMBRES: tuple[Timbre, ...] = ("neutral", "deep", "bright")


def test_each_timbre_is_another_voice() -> None:
    need("flite")
    spoken = {flite.speak("hello", "en", timbre, 16_000) for timbre in TIMBRES}
    assert len(spoken) == 3
    assert all(len(pcm) > 5000 for pcm in spoken)


def test_a_failure_of_the_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(command: list[str], **_options: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 1, b"", b"no such voice")

    monkeypatch.setattr(subprocess, "run", failing)
    with pytest.raises(RuntimeError, match="no such voice"):
        flite.speak("hello", "en", "neutral", 16_000)
