"""A frozen sidecar: its sockets stay open and accept data until they are full, but the process does not read."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal as signals
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from loguru import logger
from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    TTSSpeakFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.utils.errors import ErrorCategory
from pipecat_slng_sidecar import (
    SlngHttpTTSService,
    SlngSTTService,
    SlngTTSService,
    connection,
    http_tts,
    stall_guard,
    stt,
    tts,
)
from slng_sidecar.simulator import SimulatorOptions, running_simulator
from support.bots import SIGNAL, free_port
from support.numbered_signal import words
from support.official import audio_frames, have_ended, played, transcribed, was_transcribed
from support.pipelines import RunningPipeline, running_pipeline
from support.processes import Running, started
from websockets.asyncio.client import ClientConnection

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

SHORT = 0.3
# How many bytes a connection of websockets may buffer before a send waits.
HIGH_WATER = 32_768


@pytest.fixture
def transports(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Transport]:
    """Return a list to which the transport of each new connection to the sidecar is added."""
    made: list[asyncio.Transport] = []

    class RecordedConnection(ClientConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            made.append(transport)
            super().connection_made(transport)

    for name in ("connect", "unix_connect"):
        monkeypatch.setattr(connection, name, partial(getattr(connection, name), create_connection=RecordedConnection))
    return made


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """Return a list to which each warning of Pipecat is added, such as one about a task that cannot be cancelled."""
    logged: list[str] = []
    sink = logger.add(lambda message: logged.append(str(message)), level="WARNING", format="{message}")
    yield logged
    logger.remove(sink)


class Sidecar:
    """A sidecar process at a fixed address. It can be frozen, thawed and replaced."""

    def __init__(self, upstream: str, listen: tuple[str, str], url: str) -> None:
        self.url = url
        self._listen = listen
        self._settings = {"SLNG_API_KEY": "a-key-of-slng", "SLNG_BASE_URL": upstream}
        self._stack = contextlib.AsyncExitStack()
        self._running: Running | None = None

    async def start(self) -> None:
        process = started("serve", *self._listen, cwd=None, **self._settings)
        self._running = running = await self._stack.enter_async_context(process)
        await running.says(r"slng-sidecar \S+ at (http|unix)")

    def send(self, signal: signals.Signals) -> None:
        assert self._running is not None
        self._running.process.send_signal(signal)

    async def freeze(self) -> None:
        self.send(signals.SIGSTOP)
        assert self._running is not None
        stat = Path(f"/proc/{self._running.process.pid}/stat")
        async with asyncio.timeout(5):
            while stat.read_text().rpartition(") ")[2][0] != "T":
                await asyncio.sleep(0.005)

    async def thaw(self) -> None:
        self.send(signals.SIGCONT)

    async def replace(self) -> None:
        assert self._running is not None
        self._running.process.kill()
        await self._running.ends()
        self._running.code = 0
        await self.start()

    async def end(self) -> None:
        if self._running is not None and self._running.code is None:
            self.send(signals.SIGCONT)
        await self._stack.aclose()


@contextlib.asynccontextmanager
async def sidecar_at(kind: str, folder: Path) -> AsyncIterator[Sidecar]:
    """Run a sidecar on a TCP port or a Unix socket, with a simulator as upstream. Thaw it at the end."""
    path, port = folder / "s.sock", free_port()
    unix = ("--uds", str(path)), f"unix:{path}"
    tcp = ("--port", str(port)), f"http://127.0.0.1:{port}"
    async with running_simulator(SimulatorOptions.fast(words=True)) as simulator:
        sidecar = Sidecar(simulator.url, *(unix if kind == "unix" else tcp))
        try:
            await sidecar.start()
            yield sidecar
        finally:
            await sidecar.end()


async def send_audio(pipeline: RunningPipeline, frames: Sequence[InputAudioRawFrame]) -> None:
    """Send audio and wait until it has passed through the pipeline."""
    passed = len(pipeline.down(InputAudioRawFrame)) + len(frames)
    await pipeline.send(*frames)
    await pipeline.until(lambda: len(pipeline.down(InputAudioRawFrame)) >= passed)


async def speak_until_full(pipeline: RunningPipeline, transport: asyncio.Transport, first: int) -> int:
    """Send words until the socket is full and a send waits. Return the number of the last word."""
    async with asyncio.timeout(20):
        for number in itertools.count(first):
            await send_audio(pipeline, audio_frames(range(number, number + 1), frame_bytes=3200))
            if (waiting := transport.get_write_buffer_size()) > HIGH_WATER:
                await asyncio.sleep(0.05)  # data that is only in transit has left the buffer by then
                if transport.get_write_buffer_size() == waiting:
                    return number
    raise AssertionError


@pytest.mark.parametrize(("kind", "back"), [("unix", "replaced"), ("tcp", "thawed")])
async def test_a_full_socket_costs_one_error_and_the_audio_of_that_time_is_transcribed_once(
    kind: str, back: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transports: list[asyncio.Transport]
) -> None:
    monkeypatch.setattr(stall_guard, "SEND_TIMEOUT", SHORT)
    async with sidecar_at(kind, tmp_path) as sidecar:
        service = SlngSTTService(sidecar_url=sidecar.url, model=SIGNAL)
        async with running_pipeline(service) as pipeline:
            await pipeline.send(*audio_frames(range(1, 6)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n5"))
            if kind == "tcp":
                # With the default buffer it takes two minutes of audio to fill the socket, but only 30 s are kept.
                transports[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            await sidecar.freeze()
            last = await speak_until_full(pipeline, transports[0], 6)
            await pipeline.until(lambda: pipeline.up(ErrorFrame))
            await send_audio(pipeline, audio_frames(range(last + 1, last + 6)))
            await (sidecar.thaw() if back == "thawed" else sidecar.replace())
            await pipeline.send(VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, f"n{last + 5}"))
            assert transcribed(pipeline) == words(1, last + 5)
            [error] = pipeline.up(ErrorFrame)
            assert error.category is ErrorCategory.CONNECTIVITY
            assert "accepted no data" in error.error
            assert service.is_usable


@pytest.mark.parametrize(("kind", "frame"), [("unix", EndFrame), ("tcp", CancelFrame)])
async def test_a_pipeline_ends_even_if_the_socket_is_full(
    kind: str,
    frame: type[Frame],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transports: list[asyncio.Transport],
    warnings: list[str],
) -> None:
    monkeypatch.setattr(stt, "_FINISH_TIMEOUT", SHORT)
    async with sidecar_at(kind, tmp_path) as sidecar:
        async with running_pipeline(SlngSTTService(sidecar_url=sidecar.url, model=SIGNAL)) as pipeline:
            await pipeline.send(*audio_frames(range(1, 4)), VADUserStoppedSpeakingFrame())
            await pipeline.until(partial(was_transcribed, pipeline, "n3"))
            await sidecar.freeze()
            await speak_until_full(pipeline, transports[0], 4)
            began = asyncio.get_running_loop().time()
            if frame is CancelFrame:
                await pipeline.cancel()
        # The pipeline must not wait for the stall guard's timeout, which is far longer.
        assert asyncio.get_running_loop().time() - began < 3
        assert not warnings
        assert transports[0].is_closing()


async def test_a_frozen_sidecar_that_answers_no_ping_costs_one_error_and_the_text_is_spoken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_PING_INTERVAL", SHORT)
    monkeypatch.setattr(connection, "_PING_TIMEOUT", SHORT)
    async with sidecar_at("unix", tmp_path) as sidecar:
        service = SlngTTSService(sidecar_url=sidecar.url, model=SIGNAL)
        async with running_pipeline(service) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1 n2"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            await sidecar.freeze()
            await pipeline.send(TTSSpeakFrame("n3 n4"))
            await pipeline.until(lambda: pipeline.up(ErrorFrame))
            await sidecar.thaw()
            await pipeline.until(partial(have_ended, pipeline, 2))
            assert played(pipeline) == [1, 2, 3, 4]
            assert len(pipeline.up(ErrorFrame)) == 1


async def test_an_end_frame_waits_only_briefly_for_the_text_of_a_frozen_sidecar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    for name in ("_PING_INTERVAL", "_PING_TIMEOUT", "_OPEN_TIMEOUT"):
        monkeypatch.setattr(connection, name, SHORT)
    monkeypatch.setattr(tts, "_FINISH_TIMEOUT", SHORT)
    async with sidecar_at("unix", tmp_path) as sidecar:
        began = asyncio.get_running_loop().time()
        async with running_pipeline(SlngTTSService(sidecar_url=sidecar.url, model=SIGNAL)) as pipeline:
            await pipeline.send(TTSSpeakFrame("n1 n2"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            await sidecar.freeze()
            await pipeline.send(TTSSpeakFrame("n3 n4"))
        assert asyncio.get_running_loop().time() - began < 6
        assert have_ended(pipeline, 2)
        assert not [each for each in warnings if "timed out" in each]


async def test_an_http_request_to_a_frozen_sidecar_costs_one_error_and_the_next_sentence_is_spoken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_tts, "_READ_TIMEOUT", SHORT)
    async with sidecar_at("unix", tmp_path) as sidecar:
        service = SlngHttpTTSService(sidecar_url=sidecar.url, model=SIGNAL)
        async with running_pipeline(service) as pipeline:
            await sidecar.freeze()
            await pipeline.send(TTSSpeakFrame("n1 n2"))
            await pipeline.until(partial(have_ended, pipeline, 1))
            await sidecar.thaw()
            # The short time is for the frozen sidecar only: on a busy machine a working one takes longer.
            monkeypatch.setattr(http_tts, "_READ_TIMEOUT", 30.0)
            await pipeline.send(TTSSpeakFrame("n3 n4"))
            await pipeline.until(partial(have_ended, pipeline, 2))
            assert played(pipeline) == [3, 4]
            [error] = pipeline.up(ErrorFrame)
            assert error.category is ErrorCategory.CONNECTIVITY


def test_a_frozen_sidecar_is_detected_before_audio_is_discarded() -> None:
    assert connection._PING_INTERVAL + connection._PING_TIMEOUT < stt._REPLAY_SECONDS
