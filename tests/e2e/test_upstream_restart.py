"""The upstream process is killed in the middle of a long spoken text and replaced by another one."""

from __future__ import annotations

import asyncio
import wave
from pathlib import Path

import pytest
from slng_sidecar.simulator import recognize, speak
from support.processes import COMMAND, environment, serving, started
from support.sentences import words_of

SENTENCES = (
    "Please call the front desk and ask for a quiet room.",
    "The train to the city leaves at nine in the morning.",
    "I would like to change my order before it is too late.",
    "She opened the window and looked at the garden.",
)


def without_repeats(words: list[str], expected: list[str]) -> list[str]:
    """Remove a run of words that occurs twice in a row, as it may after a replay."""
    for size in range(len(words) // 2, 0, -1):
        for start in range(len(words) - 2 * size + 1):
            again = words[start : start + size]
            if words[start + size : start + 2 * size] == again:
                shorter = words[: start + size] + words[start + 2 * size :]
                if shorter == expected:
                    return shorter
    return words


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_killed_upstream_loses_nothing_of_the_transcript(tmp_path: Path) -> None:
    pause = bytes(2 * 16_000)
    pcm = b"".join([await asyncio.to_thread(speak, sentence) + pause for sentence in SENTENCES])
    undisturbed = words_of(await asyncio.to_thread(recognize, pcm))
    path = tmp_path / "long.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(pcm)
    async with started("simulate", "--port", "0") as first:
        upstream = (await first.says(r"at (ws://\S+)")).group(1)
        port = upstream.rpartition(":")[2]
        async with serving(SLNG_API_KEY="a-key-of-slng", SLNG_BASE_URL=upstream) as gateway:
            process = await asyncio.create_subprocess_exec(
                COMMAND, "transcribe", path, "--url", gateway.url,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment(),
            )  # fmt: skip
            assert process.stdout is not None
            spoken = words_of((await process.stdout.readline()).decode())  # the first sentence is transcribed
            first.process.kill()
            await first.ends()
            async with started("simulate", "--port", port) as second:
                out, err = await process.communicate()
                assert process.returncode == 0, err.decode()
                assert "Upstream is back" in err.decode()
                spoken += words_of(out.decode())
                assert without_repeats(spoken, undisturbed) == undisturbed
                assert second.code is None
        first.code = 0
