"""Upstream's HTTP bridge: one text in a request, its sound in the reply.

Facts of the bridge are from ``pipecat-slng`` 0.4.0, which used it, and 0.6.0, which dropped it: ``{text, voice}`` and
nothing else is taken, the region stands in the query, and regional gateways answer 405.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from slng_sidecar import __version__
from slng_sidecar.audio.sniffing import SniffingReader
from slng_sidecar.audio.wav_reader import UnreadableAudio
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import Target
from slng_sidecar.upstream import connection
from slng_sidecar.upstream.connection import Limits
from slng_sidecar.upstream.failures import quote, refused

MISSING = frozenset({404, 405, 501})
"""The statuses of a gateway that has no HTTP bridge; 404 may also mean that it has no such model."""

_REGION_HEADERS = ("X-Region-Override", "X-World-Part-Override")
_MAX_ERROR_BODY = 4096
_KEEPALIVE_SECONDS = 30.0
_KEPT_CONNECTIONS = 20


class Moments(connection.Moments, Protocol):
    """Who is also told when upstream has answered."""

    def ready(self) -> None: ...


class BridgeMissing(Exception):
    """Raised when the gateway has no HTTP bridge for the model.

    Attributes:
        error: the same for a client, where there is no other way.
    """

    def __init__(self, status: int, error: GatewayError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


class _Dropped(Exception):
    """Raised when the connection is lost; ``error`` says how."""

    def __init__(self, error: GatewayError) -> None:
        super().__init__(error.message)
        self.error = error


class HttpBridge:
    """The HTTP way upstream, with the connections that it keeps open. ``close`` ends those."""

    def __init__(
        self, limits: Limits, *, first_audio_timeout: float, silence_timeout: float, proxy_from_env: bool = False
    ) -> None:
        """Open nothing yet.

        Args:
            first_audio_timeout: seconds from the request to its first sound.
            silence_timeout: seconds without any more of it until the reply counts as stuck.
            proxy_from_env: honour ``HTTPS_PROXY`` and the like.
        """
        self._first_audio_timeout = first_audio_timeout
        self._silence_timeout = silence_timeout
        self._proxy_from_env = proxy_from_env
        self._timeout = httpx.Timeout(silence_timeout, connect=limits.open_timeout, write=limits.send_timeout)
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Close what is open."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def client(self) -> httpx.AsyncClient:
        """Give the client that all requests to upstream share; it follows no redirect, since it sends keys."""
        async with self._opening:
            if self._client is None:
                # Reading the certificates takes tens of milliseconds.
                self._client = await asyncio.to_thread(self._new_client)
        return self._client

    async def speak(
        self, target: Target, text: str, voice: str | None, rate: int, heard_at: Callable[[int], None], moments: Moments
    ) -> AsyncGenerator[bytes, None]:
        """Say a text; give its sound as 16-bit mono PCM, as it comes.

        A connection that is lost before the first sound costs one more try.

        Args:
            rate: the sample rate of headerless sound, in Hz.
            heard_at: told the sample rate before the first sound.

        Raises:
            BridgeMissing: the gateway answered 404, 405 or 501.
            GatewayError: it could not be said, or not to its end.
        """
        sounded = False
        for last_try in (False, True):
            pieces = self._speak_once(target, text, voice, rate, heard_at, moments)
            try:
                async for piece in pieces:
                    sounded = True
                    yield piece
                return
            except _Dropped as lost:
                if sounded or last_try:
                    raise lost.error from None
            finally:
                await pieces.aclose()

    async def _speak_once(
        self, target: Target, text: str, voice: str | None, rate: int, heard_at: Callable[[int], None], moments: Moments
    ) -> AsyncGenerator[bytes, None]:
        client = await self.client()
        body = {"text": text, "voice": voice} if voice else {"text": text}
        try:
            async with asyncio.timeout(self._first_audio_timeout) as deadline:
                moments.dialling()
                request = client.build_request(
                    "POST", url_of(target), json=body, params=_query(target), headers=_headers(target),
                    extensions={"trace": _tracer(moments)},
                )  # fmt: skip
                reply = await client.send(request, stream=True)
                try:
                    if reply.status_code != 200:
                        raise await _refusal(reply, target)
                    reader = SniffingReader(reply.headers.get("content-type", ""), rate)
                    async for data in reply.aiter_raw():
                        if not (sound := reader.feed(data)):
                            continue
                        if deadline.when() is not None:
                            heard_at(reader.sample_rate)
                            deadline.reschedule(None)
                        yield sound
                    if sound := reader.end():
                        heard_at(reader.sample_rate)
                        yield sound
                finally:
                    await reply.aclose()
        except UnreadableAudio as error:
            raise _unreadable(str(error), target) from None
        except TimeoutError:
            raise GatewayError(
                "upstream_timeout", f"{_host(target)} gave no sound within {self._first_audio_timeout:g} s."
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
        told = explain(error, target, self._silence_timeout)
        lost = isinstance(error, (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError))
        return _Dropped(told) if lost else told


def url_of(target: Target) -> str:
    """Give the HTTP URL of a target's bridge."""
    return "http" + target.url.removeprefix("ws")


def explain(error: httpx.HTTPError, target: Target, seconds: float) -> GatewayError:
    """Say in the client's language why upstream could not be asked, or not to the end."""
    host = _host(target)
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return GatewayError("upstream_timeout", f"{host} could not be reached in time.")
        case httpx.TimeoutException():
            return GatewayError("upstream_timeout", f"{host} fell silent for {seconds:g} s.")
        case httpx.RemoteProtocolError() | httpx.ReadError() | httpx.WriteError():
            return GatewayError("upstream_closed", f"The connection to {host} was lost.")
    return GatewayError("upstream_unreachable", f"Cannot reach {host}: {quote(str(error), target.secrets)}.")


async def _refusal(reply: httpx.Response, target: Target) -> BridgeMissing | GatewayError:
    body = b""
    async for data in reply.aiter_raw():
        body += data
        if len(body) >= _MAX_ERROR_BODY:
            break
    error = refused(reply.status_code, body, target, reply.headers.get("X-Slng-Auth-Source"))
    if reply.status_code not in MISSING:
        return error
    text = f"{error.message} Regional gateways have no HTTP bridge; SLNG_HTTP_TTS=auto takes the WebSocket one there."
    return BridgeMissing(
        reply.status_code, GatewayError(error.code, text, status=error.status, upstream=error.upstream)
    )


def _unreadable(what: str, target: Target) -> GatewayError:
    return GatewayError(
        "unsupported_audio_format",
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


def _tracer(moments: Moments) -> Callable[[str, Any], Any]:
    """Give what httpcore tells of each step."""

    async def trace(event: str, _info: Any) -> None:
        match event:
            case "http11.send_request_headers.started":
                moments.opened()
            case "http11.receive_response_headers.complete":
                moments.ready()

    return trace
