"""Speech as an HTTP reply. It starts with the first audio, and a later failure breaks the body off."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from slng_sidecar.audio.encoding import Encoder
from slng_sidecar.audio.resampling import Resampler, resampler
from slng_sidecar.net.serving import transport_of
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.net.timed_send import deliver
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.guard import peer_of
from slng_sidecar.server.replies import disconnected, error_response
from slng_sidecar.server.synthesis import Synthesis
from slng_sidecar.sessions.http_speech import HttpSpeech


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The form of the reply.

    Attributes:
        encoder: encodes the file.
        sample_rate: the rate to resample to, in Hz; None for upstream's rate.
        events: whether the audio is sent as server-sent events, in base64 (OpenAI's ``stream_format: sse``).
        headers: additional headers.
    """

    encoder: Encoder
    sample_rate: int | None = None
    events: bool = False
    headers: dict[str, str] = field(default_factory=dict)


class SpeechResponse(Response):
    """Starts to reply once there is audio, so that an earlier failure gets its own status and body."""

    def __init__(self, synthesis: Synthesis, target: Target, speech: HttpSpeech, audio_format: AudioFormat) -> None:
        super().__init__()
        self._synthesis = synthesis
        self._target = target
        self._speech = speech
        self._format = audio_format

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._synthesis.start(self._speech, self._target, peer_of(scope))
        except GatewayError as error:
            await error_response(error, self._format.headers)(scope, receive, send)
            return
        try:
            async with Tasks() as tasks:
                reply = tasks.start(self._reply(scope, send), "speech reply")
                gone = tasks.start(disconnected(receive), "speech client")
                await asyncio.wait((reply, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._speech.leave()

    def _log_failure(self, what: str, error: GatewayError) -> None:
        if (log := self._speech.log) is not None:
            log.info("speech %s: %s", what, error.for_log, fields={"event": "request_failed", "code": error.known_code})

    async def _reply(self, scope: Scope, send: Send) -> None:
        speech, audio_format = self._speech, self._format
        try:
            audio = await speech.next()
            if audio is None:
                raise GatewayError(ErrorCode.PROVIDER_ERROR, f"{self._target.model} sent no audio for that text.")
        except GatewayError as error:
            self._log_failure("failed", error)
            headers = {**audio_format.headers, "Server-Timing": speech.timing.header()}
            await error_response(error, headers)(scope, _never, send)
            return
        rate = speech.sample_rate
        wanted = audio_format.encoder.sample_rate(audio_format.sample_rate or rate)
        resampling = resampler(rate, rate) if rate == wanted else await asyncio.to_thread(resampler, rate, wanted)
        body = _Body(send, scope, self._synthesis.send_timeout, audio_format, resampling)
        self._synthesis.reply_starts(speech)
        await body.begin(
            {
                **audio_format.headers,
                "X-Upstream": speech.bridge,
                "Server-Timing": speech.timing.header(),
            }
        )
        try:
            while audio is not None:
                await body.audio(audio)
                audio = await speech.next()
        except GatewayError as error:
            # The status is sent. Only a body that breaks off can still show that the audio is not complete.
            self._log_failure("broke off", error)
            await body.break_off(error)
            return
        await body.end()


class _Body:
    """Sends the body: resampled, encoded, and as events if that is asked for."""

    def __init__(
        self, send: Send, scope: Scope, seconds: float, audio_format: AudioFormat, resampling: Resampler
    ) -> None:
        self._send = send
        self._transport = transport_of(scope)
        self._seconds = seconds
        self._format = audio_format
        self._resampler = resampling
        self._rate = resampling.rate

    async def begin(self, headers: dict[str, str]) -> None:
        audio_format = self._format
        headers = {
            "Content-Type": "text/event-stream" if audio_format.events else audio_format.encoder.media_type(self._rate),
            "X-Sample-Rate": str(self._rate),
            "X-Channels": "1",
            "X-Sample-Format": "s16le",
            "Cache-Control": "no-store",
            "Accept-Ranges": "none",
            **headers,
        }
        raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": 200, "headers": raw_headers})
        await self._put(audio_format.encoder.begin(self._rate))

    async def audio(self, pcm: bytes) -> None:
        if self._format.encoder.blocking:
            await self._put(await asyncio.to_thread(lambda: self._format.encoder.encode(self._resampler.feed(pcm))))
        else:
            await self._put(self._format.encoder.encode(self._resampler.feed(pcm)))

    async def end(self) -> None:
        encoder, last = self._format.encoder, self._resampler.end()
        if encoder.blocking:
            await self._put(await asyncio.to_thread(lambda: encoder.encode(last) + encoder.end()))
        else:
            await self._put(encoder.encode(last) + encoder.end())
        if self._format.events:
            await self._event({"type": "speech.audio.done"})
        await self._raw(b"", more=False)

    async def break_off(self, error: GatewayError) -> None:
        if self._format.events:
            await self._event({"error": error.as_fields()})
        self._transport.close()

    async def _put(self, data: bytes) -> None:
        if not data:
            return
        if self._format.events:
            await self._event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        else:
            await self._raw(data)

    async def _event(self, fields: dict[str, Any]) -> None:
        await self._raw(b"data: " + dump(fields).encode() + b"\n\n")

    async def _raw(self, data: bytes, *, more: bool = True) -> None:
        message = {"type": "http.response.body", "body": data, "more_body": more}
        await deliver(self._send(message), len(data), self._transport, self._seconds)


async def _never() -> Any:
    await asyncio.Event().wait()
