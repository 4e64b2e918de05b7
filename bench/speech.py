"""Numbered speech, sent at the pace of life, and what became of it upstream."""

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

FRAME = 640
FRAME_SECONDS = 0.02


@dataclass(frozen=True)
class Speech:
    """Some words and their sound."""

    numbers: list[int]
    pcm: bytes

    @property
    def frames(self) -> list[bytes]:
        return [self.pcm[at : at + FRAME] for at in range(0, len(self.pcm), FRAME)]


def speech(seed: int, seconds: float, *, pauses: bool = True) -> Speech:
    """Make words of 100 to 300 ms with 40 to 80 ms between them, and, with pauses, 300 to 600 ms after each seventh."""
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
    """Make seconds of words without a pause, then of silence, and then of words again.

    The silence is not quite silent: each 20 ms bear a number, at less than a hundredth of the words' loudness, so that
    they are found again.
    """
    rng = random.Random(seed)
    words: list[signal.SignalWord] = []
    for seconds in (first, second):
        frames = 0
        while frames * FRAME_SECONDS < seconds:
            words.append(signal.SignalWord(len(words) + 1, frames=rng.randint(5, 15), gap=2))
            frames += (words[-1].frames or 0) + 2
        words[-1] = replace(words[-1], gap=round(silence / FRAME_SECONDS))
    said = Speech([word.number for word in words], signal.encode(words, RATE))
    marked = [
        frame if any(frame) else bytes([1 + index % 200, 0]) * (FRAME // 2) for index, frame in enumerate(said.frames)
    ]
    return Speech(said.numbers, b"".join(marked))


async def say(
    said: Speech,
    send: Callable[[bytes], Awaitable[float]],
    *,
    at: float = -1,
    act: Callable[[], Awaitable[None]] | None = None,
) -> list[float]:
    """Send 20 ms every 20 ms, and do something once that share of it was sent; give when each 20 ms were sent."""
    frames = said.frames
    start, times = time.monotonic(), []
    for index, frame in enumerate(frames):
        if act is not None and index == round(at * len(frames)):
            await act()
        times.append(await send(frame))
        await asyncio.sleep(start + (index + 1) * FRAME_SECONDS - time.monotonic())
    return times


@dataclass(frozen=True)
class Fate:
    """What became of the words.

    Attributes:
        lost: reached no upstream connection at all.
        split: reached upstream in parts only.
        untold: came in no transcript.
    """

    lost: int
    split: int
    untold: int


def fate(said: Speech, connections: list[Connection], transcribed: list[str]) -> Fate:
    """Say what became of the words, from what upstream got and what the client was told."""
    whole: set[int] = set()
    partly: set[int] = set()
    for connection in connections:
        for word in signal.decode(connection.sound_up, RATE):
            (whole if word.whole else partly).add(word.number)
    told = {int(word[1:]) for word in transcribed if word.startswith("n")}
    spoken = set(said.numbers)
    return Fate(len(spoken - whole - partly), len((spoken - whole) & partly), len(spoken - told))


def lateness(said: Speech, sent: list[float], connections: list[Connection]) -> list[tuple[float, float]]:
    """Give when each 20 ms of speech were sent, and how many ms later upstream had all of it.

    Each 20 ms bear a number, so they are found wherever they arrived first. What is quite silent bears none and is left
    out; so is what never arrived.
    """
    streams = [_Arrivals(connection.audio_up) for connection in connections if connection.audio_up]
    streams.append(_Arrivals([message for connection in connections for message in connection.audio_up]))
    late = []
    for frame, at in zip(said.frames, sent, strict=True):
        if not any(frame):
            continue
        arrivals = [arrival for stream in streams if (arrival := stream.of(frame)) is not None]
        if arrivals:
            late.append((at, 1000 * (min(arrivals) - at)))
    return late


class _Arrivals:
    """A row of messages, and when each byte of it arrived."""

    def __init__(self, messages: list[tuple[float, bytes]]) -> None:
        self._sound = b"".join(data for _, data in messages)
        self._ends = list(accumulate(len(data) for _, data in messages))
        self._times = [at for at, _ in messages]
        self._found = 0

    def of(self, frame: bytes) -> float | None:
        at = self._sound.find(frame, self._found)
        if at < 0:
            return None
        self._found = at
        return self._times[bisect_right(self._ends, at + len(frame) - 1)]
