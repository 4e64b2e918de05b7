"""Speech around long silences is transcribed whole, however fast its audio comes.

The audio behind the speech is longer than what the sidecar keeps for a replay, and most of it is there before the first
final. The numbered signal shows each lost or repeated word.
"""

from __future__ import annotations

import io
import wave
from typing import Any

import httpx
import numpy as np
import pytest
from slng_sidecar.engines import signal
from slng_sidecar.simulator import SimulatorOptions
from support.running import NOVA, STT_INIT, gateway_and_simulator, talking

RATE = 16_000
SECOND = 2 * RATE
KEPT = 30  # SIDECAR_REPLAY_SECONDS
EXTENDED = "slng-sidecar.v1"

pytestmark = pytest.mark.timeout(120)


def quiet(seconds: float, noise: int = 0) -> bytes:
    """Return silence, or noise of a peak that real microphones have."""
    if not noise:
        return bytes(int(seconds * SECOND))
    samples = np.random.default_rng(1).integers(-noise, noise, int(seconds * RATE))
    return bytes(samples.astype("<i2").tobytes())


def speech(*pauses: float, noise: int = 0) -> tuple[bytes, list[str]]:
    """Return utterances of two words, each followed by a pause of some seconds, and their words."""
    audio, words = b"", []
    for number, pause in enumerate(pauses):
        pair = [2 * number + 1, 2 * number + 2]
        audio += signal.encode(pair, RATE) + quiet(pause, noise)
        words += [f"n{word}" for word in pair]
    return audio, words


CASES = [
    pytest.param((5, 5, 40), 0, id="5 s, 5 s, 40 s"),
    pytest.param((2, 2, 2, 2, 2, 120), 0, id="6 times 2 s, 120 s"),
    pytest.param((35, 35, 35), 0, id="35 s between all"),
    pytest.param((1, KEPT - 1), 0, id="a tail of 29 s"),
    pytest.param((1, KEPT + 1), 0, id="a tail of 31 s"),
    pytest.param((5, 5, 40), 150, id="quiet noise"),
    pytest.param((5, 5, 40), 700, id="louder noise"),
]


def options(**profile: Any) -> SimulatorOptions:
    return SimulatorOptions.fast(keep_audio=0, **profile)


@pytest.mark.parametrize(("pauses", "noise"), CASES)
@pytest.mark.parametrize("words_have_times", [True, False])
async def test_a_file_is_transcribed_whole(pauses: tuple[float, ...], noise: int, words_have_times: bool) -> None:
    audio, words = speech(*pauses, noise=noise)
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, RATE, 0, "NONE", ""))
        wav.writeframes(audio)
    async with (
        gateway_and_simulator(options(words=words_have_times, final_ms=200)) as (url, _),
        httpx.AsyncClient(trust_env=False, timeout=60) as client,
    ):
        upload = {"file": ("a.wav", file.getvalue())}
        reply = await client.post(f"{url}/v1/audio/transcriptions", data={"model": "whisper-1"}, files=upload)
    assert reply.status_code == 200, reply.text
    assert reply.json()["text"].split() == words


@pytest.mark.parametrize(("pauses", "noise"), CASES)
@pytest.mark.parametrize("subprotocol", [None, EXTENDED])
@pytest.mark.parametrize("size", [640, 60 * SECOND], ids=["20 ms", "60 s"])
async def test_a_session_is_transcribed_whole(
    pauses: tuple[float, ...], noise: int, subprotocol: str | None, size: int
) -> None:
    audio, words = speech(*pauses, noise=noise)
    async with (
        gateway_and_simulator(options(final_ms=200)) as (url, _),
        talking(url, "stt", NOVA, subprotocol=subprotocol) as talk,
    ):
        await talk.send(STT_INIT)
        await talk.until("ready")
        await talk.send(*(audio[at : at + size] for at in range(0, len(audio), size)))
        await talk.send({"type": "finalize"}, {"type": "close"})
        await talk.until_closed()
        assert " ".join(talk.finals()).split() == words


@pytest.mark.parametrize("subprotocol", [None, EXTENDED])
@pytest.mark.parametrize("size", [640, 40 * SECOND], ids=["20 ms", "40 s"])
async def test_audio_that_comes_faster_than_upstream_opens_is_transcribed_whole(
    subprotocol: str | None, size: int
) -> None:
    audio, words = speech(*[8] * 12)
    async with (
        gateway_and_simulator(options(upgrade_ms=1500)) as (url, _),
        talking(url, "stt", NOVA, subprotocol=subprotocol) as talk,
    ):
        await talk.send(STT_INIT, *(audio[at : at + size] for at in range(0, len(audio), size)))
        await talk.send({"type": "finalize"}, {"type": "close"})
        await talk.until_closed()
        assert "error" not in talk.types
        assert " ".join(talk.finals()).split() == words
