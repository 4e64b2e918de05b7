"""What ``make bench`` measures of settings changes, held against what is promised.

Losses are asserted exactly; times only against the official plugin's in the same run, as machines differ.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


async def measured(tmp_path: Path, *names: str) -> dict[str, dict[str, Any]]:
    """Run the command with ``--quick``; give each row by its measurement and its words."""
    file = tmp_path / "bench.json"
    only = [word for name in names for word in ("--only", name)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench", "--quick", *only, "--json", str(file),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    parts = json.loads(file.read_text())["parts"]
    return {f"{part['title'].split(':')[0]}: {row['what']}": row for part in parts for row in part["rows"]}


@pytest.mark.timeout(90)
async def test_settings_change_without_loss_and_without_delay(tmp_path: Path) -> None:
    found = await measured(tmp_path, "stt_update", "tts_update")

    for what in ("lost", "split", "never transcribed"):
        assert set(found[f"STT update: {what}"]["ours_all"]) == {0}, what
    late = found["STT update: late, maximum"]
    assert late["ours"] < late["other"] / 2
    assert late["other"] > 300, "the official plugin did not reconnect: nothing was compared"

    lost = found["TTS update: lost of it"]
    assert set(lost["ours_all"]) == {0}
    assert lost["other"] > 0, "the official plugin lost nothing: nothing was compared"
    assert set(found["TTS update: next words in the new voice"]["ours_all"]) == {1}
    # Both open a connection for it; ours before, the official one after it has thrown the old one away.
    first_audio = found["TTS update: next text to its first audio"]
    assert first_audio["ours"] < 1.5 * first_audio["other"]
