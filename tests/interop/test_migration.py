"""The bot for ``pipecat-slng`` 0.4.0 in our plugin's tests runs on that version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.drivers import python_of
from support.paths import TESTS
from support.processes import environment

pytestmark = pytest.mark.interop

BOTS = TESTS / "plugin" / "bots"
# Before 1.12, Pipecat downloads NLTK's data at import if it finds none. An empty folder prevents that.
BUILD = """
import pathlib, sys
pathlib.Path("tokenizers/punkt_tab").mkdir(parents=True)
sys.path.insert(0, sys.argv[1])
import written_for_0_4_0 as bot
print(*(type(service).__module__ + "." + type(service).__name__ for service in (bot.new_stt(), bot.new_tts())))
"""


@pytest.mark.parametrize(("way", "service"), [("websocket", "SlngTTSService"), ("http", "SlngHttpTTSService")])
def test_the_bot_for_0_4_0_runs_on_the_official_plugin(tmp_path: Path, way: str, service: str) -> None:
    python = python_of("pipecat-slng-0.4.0")
    done = subprocess.run(
        [python, "-c", BUILD, BOTS], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False,
        env=environment(NLTK_DATA=str(tmp_path), SLNG_API_KEY="k", SLNG_TTS=way),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["pipecat_slng.stt.SlngSTTService", f"pipecat_slng.tts.{service}"]
