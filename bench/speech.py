"""Numbered speech that is sent in real time, and how much of it arrived upstream."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from slng_sidecar.engines import signal

from bench.clients import RATE
from bench.wire import Connection

FRAME_BYTES = 640
FRAME_SECONDS = 0.02


@dataclass(frozen=True)
class Speech:
    """Numbered words and their audio.

    Attributes:
        numbers: the numbers of the words in order.
        pcm: the audio, 16-bit mono PCM at ``RATE``.
    """

    numbers: list[int]
    pcm: bytes

    @property
    def frames(self) -> list[bytes]:
        """The audio in frames of 20 ms."""
        return [self.pcm[at : at + FRAME_BYTES] for at in range(0, len(self.pcm), FRAME_BYTES)]


def numbered_speech(seed: int, seconds: float, *, pauses: bool = True) -> Speech:
    """Return words of 100 to 300 ms with 40 to 80 ms of silence between them.

    Args:
        seed: the seed of the random lengths.
        seconds: the minimum duration.
        pauses: whether one word in seven, on average, is followed by 300 to 600 ms of silence.
    """
    rng = random.Random(seed)
    words: list[signal.SignalWord] = []
    total = 0.0
    while total < seconds:
        number = len(words) + 1
        gap = rng.randint(15, 30) if pauses and rng.random() < 1 / 7 else rng.choice([2, 3, 4])
        word = signal.SignalWord(number, frames=rng.randint(5, 15), gap=gap)
        words.append(word)
        total += ((word.frames or 0) + gap) * FRAME_SECONDS
    return Speech([word.number for word in words], signal.encode(words, RATE))


def two_sentences(seed: int, first: float = 1.2, silence: float = 1.2, second: float = 1.5) -> Speech:
    """Return two sentences without pauses and the silence between them.

    The silence contains a number in each 20 ms, at less than a hundredth of the words' level, so that ``delays`` can
    find the frames.

    Args:
        seed: the seed of the random lengths.
        first: the minimum duration of the first sentence in seconds.
        silence: the duration of the silence after each sentence in seconds.
        second: the minimum duration of the second sentence in seconds.
    """
    rng = random.Random(seed)
    words: list[signal.SignalWord] = []
    for seconds in (first, second):
        frames = 0
        while frames * FRAME_SECONDS < seconds:
            words.append(signal.SignalWord(len(words) + 1, frames=rng.randint(5, 15), gap=2))
            frames += (words[-1].frames or 0) + 2
        words[-1] = replace(words[-1], gap=round(silence / FRAME_SECONDS))
    sentences = Speech([word.number for word in words], signal.encode(words, RATE))
    marked = [
        frame if any(frame) else bytes([1 + index % 200, 0]) * (FRAME_BYTES // 2)
        for index, frame in enumerate(sentences.frames)
    ]
    return Speech(sentences.numbers, b"".join(marked))


async def send_in_real_time(
    speech: Speech,
    send: Callable[[bytes], Awaitable[float]],
    *,
    at: float = -1,
    act: Callable[[], Awaitable[None]] | None = None,
) -> list[float]:
    """Send a frame of 20 ms every 20 ms.

    Args:
        speech: the speech to send.
        send: sends a frame and returns when.
        at: the share of the speech, from 0 to 1, after which ``act`` is called.
        act: what to do in the middle of the speech.

    Returns:
        The time at which each frame was sent.
    """
    frames = speech.frames
    start, times = time.monotonic(), []
    for index, frame in enumerate(frames):
        if act is not None and index == round(at * len(frames)):
            await act()
        times.append(await send(frame))
        await asyncio.sleep(start + (index + 1) * FRAME_SECONDS - time.monotonic())
    return times


@dataclass(frozen=True)
class WordLosses:
    """How many words were lost, and where.

    Attributes:
        lost: words of which no upstream connection received anything.
        split: words that no upstream connection received whole.
        not_transcribed: words that are in no transcript.
    """

    lost: int
    split: int
    not_transcribed: int


def word_losses(speech: Speech, connections: list[Connection], transcribed: list[str]) -> WordLosses:
    """Count the lost words of a speech.

    Args:
        speech: the speech that was sent.
        connections: the upstream connections that carried it.
        transcribed: the words that the client received.
    """
    whole: set[int] = set()
    partly: set[int] = set()
    for connection in connections:
        for word in signal.decode(connection.pcm_up, RATE):
            (whole if word.whole else partly).add(word.number)
    received = {int(word[1:]) for word in transcribed if word.startswith("n")}
    spoken = set(speech.numbers)
    return WordLosses(len(spoken - whole - partly), len((spoken - whole) & partly), len(spoken - received))


def delays(speech: Speech, sent: list[float], connections: list[Connection]) -> list[tuple[float, float]]:
    """Return when each frame of speech was sent, and how many ms later upstream had received all of it.

    Each frame contains a number, so it can be found on the connection where it arrived first. Frames of digital silence
    contain none and are left out, as are frames that never arrived.

    Args:
        speech: the speech that was sent.
        sent: when each of its frames was sent.
        connections: the upstream connections that carried it.
    """
    streams = [_Arrivals(connection.audio_up) for connection in connections if connection.audio_up]
    streams.append(_Arrivals([message for connection in connections for message in connection.audio_up]))
    delays_ms = []
    for frame, at in zip(speech.frames, sent, strict=True):
        if not any(frame):
            continue
        arrivals = [arrival for stream in streams if (arrival := stream.find(frame)) is not None]
        if arrivals:
            delays_ms.append((at, 1000 * (min(arrivals) - at)))
    return delays_ms


class _Arrivals:
    """The audio of successive messages, and when each byte of it arrived.

    Mutable: ``_found``, where the last frame was found. The next one is searched from there.
    """

    def __init__(self, messages: list[tuple[float, bytes]]) -> None:
        self._pcm = b"".join(data for _, data in messages)
        self._ends = list(accumulate(len(data) for _, data in messages))
        self._times = [at for at, _ in messages]
        self._found = 0

    def find(self, frame: bytes) -> float | None:
        """Return when the last byte of a frame arrived, or None if the frame did not arrive."""
        at = self._pcm.find(frame, self._found)
        if at < 0:
            return None
        self._found = at
        return self._times[bisect_right(self._ends, at + len(frame) - 1)]
