"""The plugin's results in ``make bench``, compared with what the documentation promises.

The benchmark uses real Pipecat pipelines, with the sidecar and the simulator as separate processes. Losses are asserted
exactly. Times are compared only with the official plugin's times in the same run, since machines differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from support.paths import ROOT

MEASURES = ("stt_update", "tts_update", "interruption", "stt_drop", "pipeline")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # the first test waits for the run

Found = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Run the command with ``--quick`` and return each row by its table and its label."""
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    only = [word for name in MEASURES for word in ("--only", name)]
    command = [sys.executable, "-m", "bench", "--quick", *only, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = json.loads(file.read_text())["parts"]
    return {part["title"]: {row["what"]: row for row in part["rows"]} for part in parts}


def test_an_interruption_frame_is_not_held(found: Found) -> None:
    rows = found["TTS interruption: 300 ms to open, 400 ms to clear"]
    held, frozen = rows["InterruptionFrame held"], rows["held, with a frozen upstream"]
    assert held["ours"] < held["other"] / 10
    assert frozen["ours"] < frozen["other"] / 100
    assert set(rows["stale audio after it"]["ours_all"]) == {0}


def test_uninterruptible_speech_behind_interrupted_speech_is_played_whole(found: Found) -> None:
    rows = found["TTS interruption: 300 ms to open, 400 ms to clear"]
    assert rows["heard of that"]["ours_all"] == rows["uninterruptible speech behind it"]["ours_all"]
    assert rows["heard of that"]["other"] == 0, "the official plugin lost nothing: nothing was compared"


def test_stt_settings_change_in_silence_without_loss_or_delay(found: Found) -> None:
    rows = found["STT update: in silence: 300 ms to open"]
    for what in ("lost", "split", "never transcribed", "late, over 50 ms"):
        assert set(rows[what]["ours_all"]) == {0}, what
    assert rows["speech never transcribed"]["other"] > 500, "the official plugin lost nothing: nothing was compared"
    assert rows["late, maximum"]["ours"] < rows["late, maximum"]["other"] / 5
    held = rows["system frames held, maximum"]
    assert held["ours"] < held["other"] / 5


def test_stt_settings_change_in_mid_speech_without_loss(found: Found) -> None:
    rows = found["STT update: 300 ms to open (150 + 150), speech with pauses"]
    for what in ("lost", "split", "never transcribed"):
        assert set(rows[what]["ours_all"]) == {0}, what


def test_tts_settings_change_in_mid_utterance_without_loss(found: Found) -> None:
    rows = found["TTS update: 600 ms to open (300 + 300)"]
    assert set(rows["lost of it"]["ours_all"]) == {0}
    assert rows["lost of it"]["other"] > 0, "the official plugin lost nothing: nothing was compared"
    assert set(rows["next words in the new voice"]["ours_all"]) == {1}
    # Both plugins open a connection for it: this plugin before it closes the old one, the official one after that.
    first_audio = rows["next text to its first audio"]
    assert first_audio["ours"] < 1.5 * first_audio["other"]


def test_transcripts_go_on_after_a_drop_and_no_word_is_lost(found: Found) -> None:
    rows = found["STT, upstream dropped under audio: 300 ms to open"]
    for what in ("never transcribed", "split"):
        assert set(rows[what]["ours_all"]) == {0}, what
    assert min(rows["transcripts after the drop"]["ours_all"]) > 0
    assert rows["never transcribed"]["other"] > 0, "the official plugin lost nothing: nothing was compared"


@pytest.mark.parametrize("what", ["no sidecar", "a sidecar without upstream"])
def test_without_a_gateway_there_is_one_error_and_all_audio_passes(found: Found, what: str) -> None:
    rows = found[f"Gateway down: {what}"]
    assert set(rows["ErrorFrames"]["ours_all"]) == {1}
    assert set(rows["audio passed through"]["ours_all"]) == {100}
    assert rows["ErrorFrames"]["other"] > 50, "the official plugin reported little: nothing was compared"


def test_a_pipeline_does_not_wait_for_its_connections(found: Found) -> None:
    start = found["Pipeline: 300 ms to open"]["STT and TTS pipeline start"]
    assert start["ours"] < start["other"] / 5


def test_a_slow_first_byte_is_played_whole(found: Found) -> None:
    heard = found["Pipeline: 300 ms to open"]["heard of speech with a first byte after 3.5 s"]
    assert set(heard["ours_all"]) == {1000}
    assert heard["other"] == 0, "the official plugin waited, too: nothing was compared"
