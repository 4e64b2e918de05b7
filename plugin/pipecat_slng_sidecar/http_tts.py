"""Text to speech through a sidecar, one HTTP request for each utterance."""

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
from pipecat_slng_sidecar.failures import Failure, failure_of_reply
from pipecat_slng_sidecar.options import DEFAULT_TTS_MODEL, WorldPart
from pipecat_slng_sidecar.tts_base import SlngSpeechService, SlngTTSSettings, WholeSamples

# A sidecar that starts a little later than the bot, or again, is waited for: nothing was sent to it yet.
_WAIT_FOR_SIDECAR = 10.0
_CONNECT_TIMEOUT = 5.0
# The sidecar's own deadlines come first; this is for one that is stuck itself.
_READ_TIMEOUT = 60.0
# 100 ms of audio at 24 kHz: what is pushed as one frame at most.
_PIECE = 4800


class SlngHttpTTSService(SlngSpeechService):
    """Text to speech by SLNG, one request to the sidecar for each sentence, its audio pushed as it comes.

    Sentences are spoken strictly one after another, and a changed voice waits for the sentence that is being spoken:
    for a conversation ``SlngTTSService`` is the better one.
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
        """Build the service.

        Args:
            api_key: not needed: the key is the sidecar's.
            world_part: the regional gateway, such as ``"in"``; without it the sidecar's own.
            model: the SLNG route.
            voice: as the provider names it.
            base_url: not needed: the address of SLNG is the sidecar's.
            aiohttp_session: to use instead of one of the service's own; it is left open. For a ``unix:`` address it
                needs a connector for that socket.
            sample_rate: in Hz; the pipeline's by default.
            region_override: pin requests to a datacenter (global gateway).
            world_part_override: keep requests in a broad zone (global gateway).
            provider_key: your own provider's key, for routes without ``slng/``.
            external_agent_id: for usage events, as ``X-SLNG-Agent-Id``.
            external_session_id: for usage events, as ``X-SLNG-Session-Id``.
            language: of the speech; sent only where it is given here.
            speed: a multiplier; sent only where it is given.
            pronunciation: a reference to a pronunciation dictionary; sent only where it is given.
            sidecar_url: ``http://host:port`` or ``unix:/path``; by default ``SLNG_SIDECAR_URL``, else
                ``http://127.0.0.1:8765``.
            sidecar_token: the sidecar's token, where it wants one; by default ``SLNG_SIDECAR_TOKEN``.
            settings: win over the arguments above.
            **kwargs: for ``TTSService``.

        Raises:
            ValueError: something of this cannot work; the text says what and why.
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
        """Open an HTTP session, where none was given."""
        await super().setup(setup)
        if self._session is None:
            socket = self._address.socket
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket) if socket else None)

    async def stop(self, frame: EndFrame) -> None:
        """Close the service's own session once all is said."""
        await super().stop(frame)
        await self._close()

    async def cancel(self, frame: CancelFrame) -> None:
        """Close the service's own session at once."""
        await super().cancel(frame)
        await self._close()

    async def cleanup(self) -> None:
        """Close the service's own session, if nothing has before."""
        await super().cleanup()
        await self._close()

    async def _close(self) -> None:
        if self._owns_session and self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @traced_tts
    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        """Ask for a sentence and give its audio as it comes; an interruption aborts the request."""
        failure: Failure | None = None
        try:
            async with await self._ask(text) as response:
                if response.status != 200:
                    failure = failure_of_reply(response.status, await response.read(), self._address)
                elif response.headers.get("X-Sample-Format") != "s16le":
                    failure = _not_pcm(response)
                else:
                    await self.start_tts_usage_metrics(text)
                    sample_rate, channels = int(response.headers["X-Sample-Rate"]), int(response.headers["X-Channels"])
                    whole = WholeSamples(channels)
                    async for data in response.content.iter_chunked(_PIECE):
                        await self.stop_ttfb_metrics()
                        if audio := whole.take(data):
                            yield TTSAudioRawFrame(audio, sample_rate, channels, context_id=context_id)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            failure = Failure(
                f"The sidecar at {self._address} did not say this to its end ({error or type(error).__name__}). "
                "If it does not run, start it with: slng-sidecar serve.",
                ErrorCategory.CONNECTIVITY,
            )
        if failure is not None:
            yield self._explain(context_id, failure)

    async def _ask(self, text: str) -> aiohttp.ClientResponse:
        assert self._session is not None
        loop = asyncio.get_running_loop()
        end, wait = loop.time() + _WAIT_FOR_SIDECAR, FIRST_WAIT
        body: dict[str, Any] = {"text": text, "config": {"sample_rate": self.sample_rate, **self.asked_config()}}
        if self._settings.voice:
            body["voice"] = str(self._settings.voice)
        while True:
            try:
                return await self._session.post(
                    self._address.http("tts", str(self._settings.model)),
                    json=body,
                    headers={**self._headers, "Accept": "audio/pcm"},
                    timeout=_timeout(),
                )
            except aiohttp.ClientConnectorError:
                if loop.time() + wait > end:
                    raise
            await asyncio.sleep(wait)
            wait = min(wait * 2, LONGEST_WAIT)

    def _explain(self, context_id: str, failure: Failure) -> ErrorFrame:
        self._explained.add(context_id)
        return ErrorFrame(failure.message, category=failure.category)

    async def flush_audio(self, context_id: str | None = None) -> None:
        """End a context in which the last sentence brought no audio; Pipecat ends the others itself."""
        if context_id is not None and self.audio_context_available(context_id):
            await self.append_to_audio_context(context_id, TTSStoppedFrame(context_id=context_id))
            await self.remove_audio_context(context_id)


def _timeout() -> aiohttp.ClientTimeout:
    # ``connect`` is the wait for one of the session's connections as well, which a session that was given may lack.
    return aiohttp.ClientTimeout(
        total=None, connect=_WAIT_FOR_SIDECAR, sock_connect=_CONNECT_TIMEOUT, sock_read=_READ_TIMEOUT
    )


def _not_pcm(response: aiohttp.ClientResponse) -> Failure:
    return Failure(
        f"What came is {response.content_type} and not PCM, and is not played. Check sidecar_url.",
        ErrorCategory.SERVER,
    )
