"""Upstream's HTTP bridge: one text in a request, its audio in the reply.

What is known of the bridge comes from ``pipecat-slng`` 0.4.0, which used it, and 0.6.0, which dropped it: it accepts
``{text, voice}`` and nothing else, takes the region from the query, and regional gateways answer 405.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from slng_sidecar import __version__
from slng_sidecar.audio.sniffing import SniffingReader
from slng_sidecar.audio.wav_reader import UnreadableAudio
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.reports import UpstreamObserver
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream.connection import Limits
from slng_sidecar.upstream.failures import quote, refused

MISSING = frozenset({404, 405, 501})
"""The statuses of a gateway without an HTTP bridge. 404 may also mean that it has no such model."""

_REGION_HEADERS = ("X-Region-Override", "X-World-Part-Override")
_MAX_ERROR_BODY = 4096
_KEEPALIVE_SECONDS = 30.0
_KEPT_CONNECTIONS = 20


class BridgeMissing(Exception):
    """Raised when the gateway has no HTTP bridge for the model.

    Attributes:
        status: the HTTP status that upstream answered.
        error: the error for the client if the WebSocket bridge may not be used instead.
    """

    def __init__(self, status: int, error: GatewayError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class _Dropped(Exception):
    """Raised when the connection is lost. ``error`` describes the cause."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(error.message)
        self.error = error


class HttpBridge:
    """Sends requests to upstream over HTTP and keeps connections open between them. ``close`` closes those."""

    def __init__(
        self, limits: Limits, *, first_audio_timeout: float, silence_timeout: float, proxy_from_env: bool = False
    ) -> None:
        """Create a bridge, which opens nothing yet.

        Args:
            limits: of connections to upstream.
            first_audio_timeout: seconds from a request to its first audio.
            silence_timeout: seconds without more audio after which the reply counts as stuck.
            proxy_from_env: whether to use ``HTTPS_PROXY`` and the like.
        """
        self._first_audio_timeout = first_audio_timeout
        self._silence_timeout = silence_timeout
        self._proxy_from_env = proxy_from_env
        self._timeout = httpx.Timeout(silence_timeout, connect=limits.open_timeout, write=limits.send_timeout)
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def client(self) -> httpx.AsyncClient:
        """Return the client that all requests to upstream share. It follows no redirects, because it sends keys."""
        async with self._opening:
            if self._client is None:
                # Reading the certificates takes tens of milliseconds.
                self._client = await asyncio.to_thread(self._new_client)
        return self._client

    async def speak(
        self,
        target: Target,
        text: str,
        voice: str | None,
        rate: int,
        on_rate: Callable[[int], None],
        observer: UpstreamObserver,
    ) -> AsyncGenerator[bytes, None]:
        """Synthesize a text and yield its audio as 16-bit mono PCM, as it comes.

        If the connection is lost before the first audio, the request is sent once more.

        Args:
            rate: the sample rate of audio without a header, in Hz.
            on_rate: called with the sample rate before the first audio.
            observer: follows the request.

        Raises:
            BridgeMissing: the gateway answered 404, 405 or 501.
            GatewayError: the text could not be synthesized, or not to its end.
        """
        has_audio = False
        for last_try in (False, True):
            pieces = self._speak_once(target, text, voice, rate, on_rate, observer)
            try:
                async for piece in pieces:
                    has_audio = True
                    yield piece
                return
            except _Dropped as lost:
                if has_audio or last_try:
                    raise lost.error from None
            finally:
                await pieces.aclose()

    async def _speak_once(
        self,
        target: Target,
        text: str,
        voice: str | None,
        rate: int,
        on_rate: Callable[[int], None],
        observer: UpstreamObserver,
    ) -> AsyncGenerator[bytes, None]:
        client = await self.client()
        body = {"text": text, "voice": voice} if voice else {"text": text}
        try:
            async with asyncio.timeout(self._first_audio_timeout) as deadline:
                observer.dialled()
                request = client.build_request(
                    "POST", url_of(target), json=body, params=_query(target), headers=_headers(target),
                    extensions={"trace": _tracer(observer)},
                )  # fmt: skip
                reply = await client.send(request, stream=True)
                try:
                    if reply.status_code != 200:
                        raise await _refusal(reply, target)
                    reader = SniffingReader(reply.headers.get("content-type", ""), rate)
                    async for data in reply.aiter_raw():
                        if not (audio := reader.feed(data)):
                            continue
                        if deadline.when() is not None:
                            on_rate(reader.sample_rate)
                            deadline.reschedule(None)
                        yield audio
                    if audio := reader.end():
                        on_rate(reader.sample_rate)
                        yield audio
                finally:
                    await reply.aclose()
        except UnreadableAudio as error:
            raise _unreadable(str(error), target) from None
        except TimeoutError:
            raise GatewayError(
                ErrorCode.UPSTREAM_TIMEOUT, f"{_host(target)} sent no audio within {self._first_audio_timeout:g} s."
            ) from None
        except httpx.HTTPError as error:
            raise self._failure(error, target) from None

    def _new_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers={"User-Agent": f"slng-sidecar/{__version__}", "Accept-Encoding": "identity"},
            timeout=self._timeout,
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=_KEEPALIVE_SECONDS,
            ),
            trust_env=self._proxy_from_env,
            follow_redirects=False,
        )

    def _failure(self, error: httpx.HTTPError, target: Target) -> Exception:
        failure = explain(error, target, self._silence_timeout)
        lost = isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError))
        return _Dropped(failure) if lost else failure


def url_of(target: Target) -> str:
    """Return the HTTP URL of a target's bridge."""
    return "http" + target.url.removeprefix("ws")


def explain(error: httpx.HTTPError, target: Target, seconds: float) -> GatewayError:
    """Return the client's error for a request to upstream that failed.

    Args:
        seconds: the timeout for silence.
    """
    host = _host(target)
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, f"{host} could not be reached in time.")
        case httpx.TimeoutException():
            return GatewayError(ErrorCode.UPSTREAM_TIMEOUT, f"{host} fell silent for {seconds:g} s.")
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return GatewayError(ErrorCode.UPSTREAM_CLOSED, f"The connection to {host} was lost.")
    return GatewayError(ErrorCode.UPSTREAM_UNREACHABLE, f"Cannot reach {host}: {quote(str(error), target.secrets)}.")


async def _refusal(reply: httpx.Response, target: Target) -> BridgeMissing | GatewayError:
    body = b""
    async for data in reply.aiter_raw():
        body += data
        if len(body) >= _MAX_ERROR_BODY:
            break
    error = refused(reply.status_code, body, target, reply.headers.get("X-Slng-Auth-Source"))
    if reply.status_code not in MISSING:
        return error
    text = f"{error.message} Regional gateways have no HTTP bridge; SLNG_HTTP_TTS=auto uses the WebSocket bridge there."
    return BridgeMissing(
        reply.status_code, GatewayError(error.code, text, status=error.status, upstream=error.upstream)
    )


def _unreadable(what: str, target: Target) -> GatewayError:
    return GatewayError(
        ErrorCode.UNSUPPORTED_AUDIO_FORMAT,
        f"{_host(target)} returned {what} for {target.model} over its HTTP bridge; only WAV and headerless PCM can be "
        "read there. SLNG_HTTP_TTS=websocket asks the model for PCM.",
    )


def _host(target: Target) -> str:
    return urlsplit(target.base_url).netloc


def _query(target: Target) -> dict[str, str]:
    if target.region:
        return {"region": target.region}
    return {"world-part": target.world_part_override} if target.world_part_override else {}


def _headers(target: Target) -> dict[str, str]:
    return {name: value for name, value in target.headers().items() if name not in _REGION_HEADERS}


def _tracer(observer: UpstreamObserver) -> Callable[[str, Any], Any]:
    """Return the callback for httpcore's trace extension, which reports each step of a request."""
    started = time.monotonic()

    async def trace(event: str, _info: Any) -> None:
        match event:
            case "http11.send_request_headers.started":
                observer.opened()
            case "http11.receive_response_headers.complete":
                observer.ready(time.monotonic() - started)

    return trace
