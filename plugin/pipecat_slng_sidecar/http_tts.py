"""Text to speech through the sidecar, with one HTTP request for each sentence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
from pipecat.frames.frames import CancelFrame, EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSStoppedFrame
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.transcriptions.language import Language
from pipecat.utils.errors import ErrorCategory
from pipecat.utils.tracing.service_decorators import traced_tts
from pipecat.utils.types import NOT_GIVEN, NotGiven

from pipecat_slng_sidecar.connection import FIRST_WAIT, LONGEST_WAIT
from pipecat_slng_sidecar.failures import Failure, failure_from_reply
from pipecat_slng_sidecar.options import DEFAULT_TTS_MODEL, WorldPart
from pipecat_slng_sidecar.tts_base import SampleAligner, SlngSpeechService, SlngTTSSettings

# How many seconds to retry while the sidecar cannot be reached, since it may still be starting. A retry cannot speak a
# sentence twice, because no request was sent yet.
_WAIT_FOR_SIDECAR = 10.0
_CONNECT_TIMEOUT = 5.0
# The sidecar's own deadlines come first. This one is for a sidecar that is stuck itself.
_READ_TIMEOUT = 60.0
# The largest audio frame in bytes: 100 ms at 24 kHz.
_FRAME_BYTES = 4800


class SlngHttpTTSService(SlngSpeechService):
    """Text to speech by SLNG with one request to the sidecar for each sentence. The audio is pushed as it arrives.

    A sentence starts only after the one before has ended, and a settings change waits for the current sentence. For a
    conversation, use ``SlngTTSService`` instead.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        world_part: WorldPart | str | None = None,
        model: str = DEFAULT_TTS_MODEL,
        voice: str | None = None,
        base_url: str | None = None,
        aiohttp_session: aiohttp.ClientSession | None = None,
        sample_rate: int | None = None,
        region_override: str | None = None,
        world_part_override: str | None = None,
        provider_key: str | None = None,
        external_agent_id: str | None = None,
        external_session_id: str | None = None,
        language: Language | str | NotGiven | None = NOT_GIVEN,
        speed: float | NotGiven | None = NOT_GIVEN,
        pronunciation: dict[str, str] | None = None,
        sidecar_url: str | None = None,
        sidecar_token: str | None = None,
        settings: SlngTTSSettings | None = None,
        **kwargs: Any,
    ) -> None:
        """Create the service. It sends nothing before the first sentence.

        Args:
            api_key: not used, because the sidecar has the key.
            world_part: the regional gateway, such as ``"in"``; by default the sidecar's.
            model: the SLNG route.
            voice: the provider's name of the voice.
            base_url: not used, because the sidecar has the address of SLNG.
            aiohttp_session: a session to use instead of the service's own. The service leaves it open. For a ``unix:``
                address, it needs a connector for that socket.
            sample_rate: samples per second, in Hz; by default the pipeline's.
            region_override: the data centre for requests; works on the global gateway only.
            world_part_override: the broad zone for requests; works on the global gateway only.
            provider_key: your own key with the provider, for routes without ``slng/``.
            external_agent_id: the agent id for SLNG's usage events, sent as ``X-SLNG-Agent-Id``.
            external_session_id: the session id for SLNG's usage events, sent as ``X-SLNG-Session-Id``.
            language: the language of the speech; sent only if you set it.
            speed: a multiplier; sent only if you set it.
            pronunciation: a reference to a pronunciation dictionary; sent only if you set it.
            sidecar_url: ``http://host:port`` or ``unix:/path``; by default ``SLNG_SIDECAR_URL``, or
                ``http://127.0.0.1:8765`` if that is not set.
            sidecar_token: the sidecar's token, if it requires one; by default ``SLNG_SIDECAR_TOKEN``.
            settings: settings that take precedence over the arguments above.
            **kwargs: further arguments of Pipecat's ``TTSService``.

        Raises:
            ValueError: an argument, or a combination of arguments, is invalid. The message gives the reason.
        """
        super().__init__(
            api_key=api_key,
            world_part=world_part,
            model=model,
            voice=voice,
            base_url=base_url,
            sample_rate=sample_rate,
            region_override=region_override,
            world_part_override=world_part_override,
            provider_key=provider_key,
            external_agent_id=external_agent_id,
            external_session_id=external_session_id,
            language=language,
            speed=speed,
            pronunciation=pronunciation,
            sidecar_url=sidecar_url,
            sidecar_token=sidecar_token,
            settings=settings,
            **{"push_stop_frames": True, **kwargs},
        )
        self._session = aiohttp_session
        self._owns_session = aiohttp_session is None

    async def setup(self, setup: FrameProcessorSetup) -> None:  # type: ignore[override] # as Pipecat's own
        """Open an HTTP session if none was passed."""
        await super().setup(setup)
        if self._session is None:
            socket = self._address.socket
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket) if socket else None)

    async def stop(self, frame: EndFrame) -> None:
        """Finish speaking, then close the service's own session."""
        await super().stop(frame)
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        """Close the service's own session at once."""
        await super().cancel(frame)
        await self._close()

    async def cleanup(self) -> None:
        """Close the service's own session if it is still open."""
        await super().cleanup()
        await self._close()

    async def _close(self) -> None:
        if self._owns_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Request a sentence and yield its audio as it arrives. An interruption aborts the request."""
        failure: Failure | None = None
        try:
            async with await self._request(text) as response:
                if response.status != 200:
                    failure = failure_from_reply(response.status, await response.read(), self._address)
                elif response.headers.get("X-Sample-Format") != "s16le":
                    failure = _not_pcm(response)
                else:
                    await self.start_tts_usage_metrics(text)
                    sample_rate, channels = int(response.headers["X-Sample-Rate"]), int(response.headers["X-Channels"])
                    aligner = SampleAligner(channels)
                    async for data in response.content.iter_chunked(_FRAME_BYTES):
                        await self.stop_ttfb_metrics()
                        if audio := aligner.align(data):
                            yield TTSAudioRawFrame(audio, sample_rate, channels, context_id=context_id)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = Failure(
                f"The request to the sidecar at {self._address} failed ({error or type(error).__name__}). If no "
                "sidecar is running, start one with `slng-sidecar serve`.",
                ErrorCategory.CONNECTIVITY,
            )
        if failure is not None:
            yield self._error_frame(context_id, failure)

    async def _request(self, text: str) -> aiohttp.ClientResponse:
        assert self._session is not None
        loop = asyncio.get_running_loop()
        end, wait = loop.time() + _WAIT_FOR_SIDECAR, FIRST_WAIT
        body: dict[str, Any] = {"text": text, "config": {"sample_rate": self.sample_rate, **self.asked_config()}}
        if self._settings.voice:
            body["voice"] = str(self._settings.voice)
        while True:
            try:
                return await self._session.post(
                    self._address.http_url("tts", str(self._settings.model)),
                    json=body,
                    headers={**self._headers, "Accept": "audio/pcm"},
                    timeout=_timeout(),
                )
            except aiohttp.ClientConnectorError:
                if loop.time() + wait > end:
                    raise
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    def _error_frame(self, context_id: str, failure: Failure) -> ErrorFrame:
        self._reported.add(context_id)
        return ErrorFrame(failure.message, category=failure.category)

    async def flush_audio(self, context_id: str | None = None) -> None:
        """End a context whose last sentence had no audio. Pipecat ends the others itself."""
        if context_id is not None and self.audio_context_available(context_id):
            await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
            await self.remove_audio_context(context_id)


def _timeout() -> aiohttp.ClientTimeout:
    # ``connect`` also limits the wait for a free connection of the session, which a session of the caller may not have.
    return aiohttp.ClientTimeout(
        total=None, connect=_WAIT_FOR_SIDECAR, sock_connect=_CONNECT_TIMEOUT, sock_read=_READ_TIMEOUT
    )


def _not_pcm(response: aiohttp.ClientResponse) -> Failure:
    return Failure(
        f"The reply is {response.content_type} instead of PCM, so it was not played. Check `sidecar_url`.",
        ErrorCategory.SERVER,
    )
