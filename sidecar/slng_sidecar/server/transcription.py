"""HTTP transcription: a file is transcribed while it comes."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from typing_extensions import override

from slng_sidecar.audio.codecs import CodecsMissing
from slng_sidecar.audio.decoding import Decoding, Expected, TooLong
from slng_sidecar.audio.wav_reader import UnreadableAudio
from slng_sidecar.net.serving import transport_of
from slng_sidecar.net.tasks import Tasks
from slng_sidecar.net.timed_send import deliver
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.gateway import Gateway, LiveSession
from slng_sidecar.server.guard import peer_of
from slng_sidecar.server.names import ignored_header, model_of
from slng_sidecar.server.replies import disconnected, error_response
from slng_sidecar.server.session_factory import SessionFactory
from slng_sidecar.server.targets import resolve_target
from slng_sidecar.server.transcripts import TranscriptionOptions, TranscriptText
from slng_sidecar.server.uploads import Event, Field, FileBegins, read_upload
from slng_sidecar.sessions.http_transcription import HttpTranscription, TranscriptionClient
from slng_sidecar.sessions.timing import Timing

_RATE = 16_000
"""The sample rate that recognizers are trained on and official clients send."""


class TranscriptionResponse(Response):
    """Reads the upload and replies. A failure before the first byte of the reply gets its own status and body."""

    def __init__(
        self,
        gateway: Gateway,
        sessions: SessionFactory,
        file_name: str,
        options: TranscriptionOptions,
        target: Target | None,
    ) -> None:
        """Create the reply.

        Args:
            gateway: gives the place for the session.
            sessions: runs the session.
            file_name: the name of the file's field in a form.
            options: collects what the request asks for.
            target: the target if the address names the model; None if the form does.
        """
        super().__init__()
        self._gateway = gateway
        self._sessions = sessions
        self._file_name = file_name
        self._options = options
        self._target = target

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        # Until a form has named its model, the place counts as an upload.
        target = self._target or Target("stt", "(upload)", gateway.services.settings.gateway, "")
        peer = peer_of(scope)
        try:
            live = gateway.take_place(target, peer)
        except GatewayError as error:
            gateway.refused(error, peer)
            await error_response(error)(scope, receive, send)
            return
        async with Decoding(_RATE, gateway.services.settings.sidecar_max_audio) as decoding:
            job = _Job(gateway, self._sessions, live, self._options, decoding, self._target)
            live.fail = job.fail
            try:
                async with Tasks() as tasks:
                    upload = tasks.start(job.upload(Request(scope, receive), self._file_name), "transcription upload")
                    reply = tasks.start(_reply(job, scope, send), "transcription reply")
                    await asyncio.wait((upload, reply), return_when=asyncio.FIRST_COMPLETED)
            finally:
                job.leave()


class _Job:
    """One upload and its session.

    Mutable: ``transcription``, once the session can start; ``error``, if the upload failed before that. ``known`` is
    set with either.
    """

    def __init__(
        self,
        gateway: Gateway,
        sessions: SessionFactory,
        live: LiveSession,
        options: TranscriptionOptions,
        decoding: Decoding,
        target: Target | None,
    ) -> None:
        self.gateway = gateway
        self.sessions = sessions
        self.options = options
        self.timing = Timing("first-words", overhead=False)
        self.transcription: HttpTranscription | None = None
        self.error: GatewayError | None = None
        self.known = asyncio.Event()
        self.live = live
        self._decoding = decoding
        self._target = target
        self._fields: list[str] = []
        self._file_started = False

    @property
    def seconds(self) -> float:
        """Seconds of audio so far."""
        return self._decoding.samples / self._decoding.sample_rate

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the reply, except for its type."""
        model = {"X-Model": self.live.target.model} if self.transcription is not None else {}
        return {**model, **ignored_header(self.options.ignored), "Server-Timing": self.timing.header()}

    async def upload(self, request: Request, file_name: str) -> None:
        """Read the upload, and return once the client disconnects."""
        settings = self.gateway.services.settings
        events = read_upload(
            request,
            file_name=file_name,
            max_file=int(settings.sidecar_max_upload),
            stall_seconds=settings.sidecar_init_timeout,
        )
        try:
            async for event in events:
                await self._take(event, request)
            if not self._file_started:
                raise GatewayError(
                    ErrorCode.BAD_REQUEST, f"There is no audio. Put the file into the field {file_name!r}."
                )
            self._start(request)
            self._decoding.finish()
        except ClientDisconnect:
            return
        except GatewayError as error:
            self.fail(error)
        await disconnected(request.receive)

    def leave(self) -> None:
        """Stop the session, or return the place if there is none."""
        if self.transcription is not None:
            self.transcription.leave()
        else:
            self.gateway.free_place(self.live)

    async def _take(self, event: Event, request: Request) -> None:
        match event:
            case Field(name, value):
                if self.transcription is not None:
                    raise GatewayError(
                        ErrorCode.BAD_REQUEST,
                        f"Put {name[:60]!r} before the file, which is transcribed while it comes.",
                    )
                self._fields.append(name)
                self.options.take(name, value)
            case FileBegins(content_type, in_form):
                self._file_started = True
                encoding, rate = self.options.headerless(content_type)
                # If a form starts with its file, the fields that describe the file may follow it.
                whole = in_form and not self._fields
                self._decoding.start(Expected(encoding, rate, whole))
                if not whole:
                    self._start(request)
            case bytes():
                await self._decoding.put(event)

    def _start(self, request: Request) -> None:
        """Start the session: everything that it is opened with is known."""
        if self.transcription is not None:
            return
        gateway = self.gateway
        settings = gateway.services.settings
        target = self._target
        if target is None:
            model = model_of(self.options.model, "stt", settings)
            target = resolve_target(request, "stt", model, settings, gateway.services.secrets)
        self.options.check()
        self.live.target = target
        self.transcription = HttpTranscription(self.options.config(), self._next_audio, self.timing)
        client = TranscriptionClient(
            self.transcription, lambda: self._decoding.sample_rate, settings.sidecar_transcript_timeout
        )
        task = gateway.services.tasks.start(self._run(client), f"transcription {self.live.number}")
        task.add_done_callback(lambda _: gateway.free_place(self.live))
        self.known.set()

    async def _run(self, client: TranscriptionClient) -> None:
        # Upstream is dialled once there is audio.
        try:
            begun = await client.begin()
        except Exception:
            self.live.log().exception("failed by a fault of the sidecar")
            self.fail(GatewayError.own_fault())
            return
        if begun:
            await self.sessions.run(client, self.live, extended=True, file=True, observer=self.timing)

    def fail(self, error: GatewayError) -> None:
        """End the transcription with an error, unless it has ended."""
        if self.transcription is not None:
            self.transcription.finish(error)
        elif self.error is None:
            self.error = error
            self.known.set()

    async def _next_audio(self) -> bytes | None:
        try:
            audio = await self._decoding.next()
        except UnreadableAudio as error:
            text = f"The upload is {error}. Send WAV, MP3, FLAC, Ogg, WebM, MP4 or AAC."
            raise GatewayError(ErrorCode.UNSUPPORTED_AUDIO_FORMAT, text, status=415) from None
        except CodecsMissing:
            raise GatewayError(
                ErrorCode.UNSUPPORTED_AUDIO_FORMAT,
                "This sidecar reads WAV only: its codecs are not installed (pip install 'slng-sidecar[codecs]').",
                status=415,
            ) from None
        except TooLong:
            limit = self.gateway.services.settings.sidecar_max_audio
            raise GatewayError(
                ErrorCode.PAYLOAD_TOO_LARGE, f"One file may have at most {limit:,.0f} s of audio (SIDECAR_MAX_AUDIO)."
            ) from None
        except OSError as error:
            text = f"The sidecar has no room on disk for that upload: {error.strerror}."
            raise GatewayError(ErrorCode.INTERNAL_ERROR, text, status=507) from None
        if audio is None and not self._decoding.samples:
            raise GatewayError(ErrorCode.BAD_REQUEST, "The file contains no audio.")
        return audio


async def _reply(job: _Job, scope: Scope, send: Send) -> None:
    """Wait for the transcript and send it."""
    transport, seconds = transport_of(scope), job.gateway.services.settings.sidecar_send_timeout
    started = False

    async def start(status: int, content_type: str, headers: dict[str, str]) -> None:
        nonlocal started
        started = True
        headers = {"Content-Type": content_type, "Cache-Control": "no-store", **headers}
        raw_headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw_headers})

    async def body(data: bytes, *, more: bool = True) -> None:
        message: Message = {"type": "http.response.body", "body": data, "more_body": more}
        await deliver(send(message), len(data), transport, seconds)

    async def event(fields: dict[str, Any]) -> None:
        if not started:
            await start(200, "text/event-stream", job.headers)
        await body(b"data: " + dump(fields).encode() + b"\n\n")

    await job.known.wait()
    transcript: TranscriptText | None = None
    try:
        if job.transcription is None:
            assert job.error is not None
            raise job.error
        transcript = job.options.transcript()
        while (segment := await job.transcription.next()) is not None:
            added = transcript.add(segment)
            if job.options.stream and added:
                await event({"type": "transcript.text.delta", "delta": added})
    except GatewayError as error:
        fields = {"event": "request_failed", "code": error.known_code}
        job.live.log().info("transcription failed: %s", error.for_log, fields=fields)
        if started:
            # The status is sent. The error and a body that breaks off show that the transcript is not complete.
            await event({"error": error.as_fields()})
            transport.close()
        else:
            await error_response(error, job.headers)(scope, _never, send)
        return
    assert transcript is not None
    if job.options.stream:
        await event({"type": "transcript.text.done", "text": transcript.text})
        await body(b"", more=False)
        return
    content_type, data = job.options.render(transcript, job.seconds)
    await start(200, content_type, {**job.headers, "Content-Length": str(len(data))})
    await body(data, more=False)


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError
