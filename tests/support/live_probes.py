"""Probes for facts about SLNG that its sources dispute. Each probe asks a gateway and returns a short answer.

``tests/live`` probes the real gateway. The tests of the simulator run the same probes against each of its variants, so
a probe that cannot distinguish them fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Gateway:
    """The gateway to probe, and the key.

    Attributes:
        patience: seconds after which an answer counts as missing.
    """

    url: str
    key: str
    patience: float = 8

    def address(self, kind: str, model: str) -> str:
        scheme, _, rest = self.url.partition("://")
        scheme = {"https": "wss", "http": "ws"}.get(scheme, scheme)
        return f"{scheme}://{rest}/v1/bridges/unmute/{kind}/{quote(model, safe='/:')}"

    @property
    def http(self) -> str:
        return self.url.replace("wss:", "https:").replace("ws:", "http:")


@contextlib.asynccontextmanager
async def session(
    gateway: Gateway, kind: str, model: str, init: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[ClientConnection]:
    """Open a connection and wait for ``ready``."""
    config = {"encoding": "linear16", "sample_rate": 16000}
    message = {"type": "init", "config": config, **(init or {})}
    async with connect(
        gateway.address(kind, model),
        additional_headers={"Authorization": f"Bearer {gateway.key}", **(headers or {})},
        compression=None,
        open_timeout=gateway.patience,
        close_timeout=1,
    ) as socket:
        await socket.send(json.dumps(message))
        await until(socket, {"ready"}, gateway.patience)
        yield socket


async def until(socket: ClientConnection, kinds: set[str], patience: float) -> tuple[str, list[str | bytes]]:
    """Read until a message of one of the types comes. Return its type, ``closed CODE`` or ``silence``, and all
    messages.
    """
    came: list[str | bytes] = []
    try:
        async with asyncio.timeout(patience):
            while True:
                data = await socket.recv()
                came.append(data)
                kind = "" if isinstance(data, bytes) else str(json.loads(data).get("type", "")).lower()
                if kind in kinds or (kind == "error" and "error" not in kinds):
                    return kind, came
    except TimeoutError:
        return "silence", came
    except ConnectionClosed as error:
        return f"closed {error.rcvd.code if error.rcvd else 1006}", came


async def turn(gateway: Gateway, socket: ClientConnection, *messages: dict[str, Any]) -> tuple[str, list[str | bytes]]:
    """Send messages and read until the turn ends."""
    for message in messages:
        await socket.send(json.dumps(message))
    return await until(socket, {"audio_end", "flushed"}, gateway.patience)


SPEAK = ({"type": "text", "text": TEXT}, {"type": "flush"})


async def which_terminal(gateway: Gateway, model: str) -> str:
    """Return whether a turn ends with ``audio_end`` or with ``flushed``."""
    async with session(gateway, "tts", model) as socket:
        return (await turn(gateway, socket, *SPEAK))[0]


async def is_a_standalone_flush_honoured(gateway: Gateway, model: str) -> str:
    """Return whether a ``flush`` message ends a turn, or only ``"flush": true`` on the last text."""
    async with session(gateway, "tts", model) as socket:
        standalone, _ = await turn(gateway, socket, *SPEAK)
    async with session(gateway, "tts", model) as socket:
        inline, _ = await turn(gateway, socket, {"type": "text", "text": TEXT, "flush": True})
    ways = [
        name
        for name, end in (("standalone", standalone), ("inline", inline))
        if end in ("audio_end", "flushed") or end.startswith("closed 1000")
    ]
    return " and ".join(ways) or "neither"


async def how_does_audio_come(gateway: Gateway, model: str) -> str:
    """Return whether audio comes in binary frames or as base64 in JSON."""
    async with session(gateway, "tts", model) as socket:
        _, came = await turn(gateway, socket, *SPEAK)
    if any(isinstance(data, bytes) and data for data in came):
        return "binary"
    return "base64" if any(isinstance(data, str) and len(data) > 500 for data in came) else "none"


async def what_happens_to_the_connection(gateway: Gateway, model: str) -> str:
    """Return whether a connection stays open after a turn and accepts another, closes, or stays open and refuses."""
    async with session(gateway, "tts", model) as socket:
        first, _ = await turn(gateway, socket, *SPEAK)
        if first.startswith("closed"):
            return "closes instead of a terminal"
        after, _ = await until(socket, {"error"}, min(1, gateway.patience))
        if after.startswith("closed"):
            return f"closes after the terminal ({after})"
        try:
            second, _ = await turn(gateway, socket, *SPEAK)
        except ConnectionClosed:
            return "closes after the terminal"
        return "accepts another turn" if second in ("audio_end", "flushed") else f"is spent ({second})"


async def is_the_route_accepted(gateway: Gateway, kind: str, model: str, headers: dict[str, str] | None = None) -> str:
    """Return whether the upgrade accepts a route (with or without ``slng/``, with or without a region header)."""
    try:
        async with session(gateway, kind, model, headers=headers):
            return "accepted"
    except InvalidStatus as error:
        return f"HTTP {error.response.status_code}"
    except (OSError, TimeoutError) as error:
        return f"unreachable ({type(error).__name__})"


async def does_it_answer(gateway: Gateway) -> str:
    """Return whether a gateway answers at all."""
    try:
        async with httpx.AsyncClient(timeout=gateway.patience) as http:
            reply = await http.get(f"{gateway.http}/v1/me", headers={"Authorization": f"Bearer {gateway.key}"})
            return f"HTTP {reply.status_code}"
    except httpx.HTTPError as error:
        return f"unreachable ({type(error).__name__})"


async def is_http_tts_served(gateway: Gateway, model: str) -> str:
    """Return whether the gateway serves the HTTP bridge."""
    async with httpx.AsyncClient(timeout=gateway.patience) as http:
        reply = await http.post(
            f"{gateway.http}/v1/bridges/unmute/tts/{quote(model, safe='/:')}",
            headers={"Authorization": f"Bearer {gateway.key}"},
            json={"text": TEXT},
        )
        return f"HTTP {reply.status_code} {reply.headers.get('content-type', '')}".strip()


async def what_answers_an_empty_finalize(gateway: Gateway, model: str) -> str:
    """Return the answer to a ``finalize`` without audio."""
    async with session(gateway, "stt", model) as socket:
        await socket.send(json.dumps({"type": "finalize"}))
        kind, came = await until(socket, {"final_transcript"}, min(4, gateway.patience))
        if kind == "final_transcript" and isinstance(came[-1], str):
            return "an empty final" if not json.loads(came[-1]).get("transcript") else "a final with words"
        return kind


async def what_answers_an_empty_flush(gateway: Gateway, model: str) -> str:
    """Return the answer to a ``flush`` without text."""
    async with session(gateway, "tts", model) as socket:
        await socket.send(json.dumps({"type": "flush"}))
        return (await until(socket, {"audio_end", "flushed"}, min(4, gateway.patience)))[0]


async def how_is_close_answered(gateway: Gateway, kind: str, model: str) -> str:
    """Return how the gateway answers ``close``."""
    async with session(gateway, kind, model) as socket:
        await socket.send(json.dumps({"type": "close"}))
        return (await until(socket, set(), gateway.patience))[0]


def host(url: str) -> str:
    return urlsplit(url).netloc
