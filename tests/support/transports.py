"""A Pipecat transport whose microphone and loudspeaker belong to the test."""

from __future__ import annotations

import asyncio

from pipecat.frames.frames import InputAudioRawFrame, OutputAudioRawFrame, StartFrame
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

FRAME = 0.02


class _Microphone(BaseInputTransport):
    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)


class _Loudspeaker(BaseOutputTransport):
    """Accepts audio at the pace at which it is played, as a sound card does."""

    def __init__(self, params: TransportParams) -> None:
        super().__init__(params)
        self.rate = 0
        self.started = asyncio.Event()
        self.played: list[tuple[float, bytes]] = []
        self._free_at = 0.0

    async def start(self, frame: StartFrame) -> None:
        await super().start(frame)
        await self.set_transport_ready(frame)
        self.started.set()

    async def write_audio_frame(self, frame: OutputAudioRawFrame) -> bool:
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time())
        await asyncio.sleep(self._free_at - loop.time())
        self._free_at += len(frame.audio) / (2 * frame.num_channels * frame.sample_rate)
        self.rate = frame.sample_rate
        self.played.append((loop.time(), frame.audio))
        return True


class RoomTransport(BaseTransport):
    """A room in which the test is the visitor."""

    def __init__(self) -> None:
        super().__init__()
        params = TransportParams(audio_in_enabled=True, audio_out_enabled=True)
        self._input, self._output = _Microphone(params), _Loudspeaker(params)
        self._register_event_handler("on_client_connected")
        self._register_event_handler("on_client_disconnected")

    def input(self) -> FrameProcessor:
        return self._input

    def output(self) -> FrameProcessor:
        return self._output

    async def ready(self) -> None:
        """Wait until the pipeline has started."""
        await self._output.started.wait()

    async def enter(self) -> None:
        await self._call_event_handler("on_client_connected", "the test")

    async def leave(self) -> None:
        await self._call_event_handler("on_client_disconnected", "the test")

    async def speak(self, pcm: bytes, sample_rate: int) -> None:
        """Send speech in real time."""
        size = int(sample_rate * FRAME) * 2
        loop = asyncio.get_running_loop()
        start = loop.time()
        for number, at in enumerate(range(0, len(pcm), size)):
            await asyncio.sleep(start + number * FRAME - loop.time())
            await self._input.push_audio_frame(InputAudioRawFrame(pcm[at : at + size], sample_rate, 1))

    def played(self) -> bytes:
        """Return the audio that was played, without the silence that filled the pauses."""
        return b"".join(audio for _, audio in self._output.played if any(audio))

    @property
    def out_rate(self) -> int:
        """Return the sample rate of the played audio in Hz."""
        return self._output.rate

    @property
    def last_audio(self) -> float:
        """Return when audio was last played, by the clock of the event loop."""
        return max((at for at, audio in self._output.played if any(audio)), default=0.0)
