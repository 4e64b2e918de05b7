"""``GET /v1/models``: upstream's catalogue and the models of the settings."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from slng_sidecar.net.serving import listen_tcp, serving
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.routes import models as models_module
from slng_sidecar.server.routes.models import Catalogue
from slng_sidecar.simulator import SimulatorOptions, running_simulator
from slng_sidecar.upstream.bridge import HttpBridge
from slng_sidecar.upstream.connection import Limits
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from support.http_tools import http_client
from support.running import AURA, KEY, NOVA, gateway_and_simulator, running_gateway


async def test_the_models_of_the_catalogue_and_of_the_settings_are_listed_as_openai_lists_models() -> None:
    settings: dict[str, Any] = {"slng_tts_model": "acme/house:1", "sidecar_model_aliases": "fast=slng/x/y:1"}
    async with gateway_and_simulator(**settings) as (url, _), http_client(url) as http:
        reply = await http.get("/v1/models")
        assert reply.status_code == 200
        assert reply.json()["object"] == "list"
        found = {model["id"]: model for model in reply.json()["data"]}
        assert {"acme/house:1", NOVA, AURA, "fast", "deepgram/aura:2"} <= found.keys()
        assert len(found) == len(reply.json()["data"])
        assert found["deepgram/aura:2"] == {
            "id": "deepgram/aura:2", "object": "model", "created": 0, "owned_by": "deepgram", "service_type": "tts",
        }  # fmt: skip
        one = await http.get(f"/v1/models/{AURA}")
        assert one.json() == found[AURA]
        none = await http.get("/v1/models/nobody")
        assert (none.status_code, none.json()["error"]["code"]) == (404, "not_found")


async def test_a_catalogue_that_does_not_answer_is_an_error_that_names_it() -> None:
    async with running_simulator(SimulatorOptions.fast()) as simulator:
        gone = simulator.url
    async with running_gateway(gone) as url, http_client(url) as http:
        reply = await http.get("/v1/models")
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert gone.removeprefix("ws://") in reply.json()["error"]["message"]


class Scripted:
    """An upstream that sends its replies in turn, repeats the last one, and records the requests."""

    def __init__(self, *replies: Response) -> None:
        self._replies = list(replies)
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.asked.append(f"{scope['path']}?{scope['query_string'].decode()}")
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        await reply(scope, receive, send)


@contextlib.asynccontextmanager
async def catalogue_of(upstream: Scripted, clock: Callable[[], float] = time.monotonic) -> AsyncIterator[Any]:
    """Serve an upstream and yield a function that returns the models in its catalogue."""
    bridge = HttpBridge(Limits(), first_audio_timeout=5, silence_timeout=5)
    catalogue = Catalogue(bridge.client, clock)
    sock = listen_tcp("127.0.0.1", 0)
    target = Target("tts", "a/b", f"ws://127.0.0.1:{sock.getsockname()[1]}", KEY)
    try:
        async with serving(upstream, sock, max_message_size=1000, shutdown_timeout=1):
            yield lambda: catalogue.models(target)
    finally:
        await bridge.close()


def page(count: int, first: int = 0) -> Response:
    return JSONResponse({"data": [{"code": f"a/m{n}"} for n in range(first, first + count)]})


async def test_all_pages_are_read_once_in_five_minutes() -> None:
    now = 0.0
    upstream = Scripted(page(100), page(7, 100))
    async with catalogue_of(upstream, lambda: now) as models:
        found = await models()
        assert len(found) == 107
        assert upstream.asked == [f"/v1/catalog/models?page={n}&page_size=100" for n in (1, 2)]
        now = 299.0
        assert await asyncio.gather(*(models() for _ in range(5))) == [found] * 5
        assert len(upstream.asked) == 2
        now = 301.0
        await models()
        assert len(upstream.asked) == 3


@pytest.mark.parametrize(
    ("reply", "status", "message_part"),
    [
        (JSONResponse({"error": "Unauthorized"}, 401), 401, "SLNG_API_KEY"),
        (Response("<html>", 404), 502, "HTTP 404"),
        (JSONResponse({"error": "x"}, 500), 502, "HTTP 500"),
        (Response("", 302, {"Location": "https://elsewhere.example"}), 502, "HTTP 302"),
        (Response("<html>"), 502, "with a catalogue"),
        (JSONResponse({"hello": []}), 502, "with a catalogue"),
        (Response("[" * 100_000), 502, "with a catalogue"),
        (Response("[" + " " * 9_000_000), 502, "too long"),
    ],
)
async def test_an_invalid_catalogue_is_an_error_and_requested_again(
    reply: Response, status: int, message_part: str
) -> None:
    async with catalogue_of(Scripted(reply, page(1))) as models:
        with pytest.raises(GatewayError, match=message_part) as caught:
            await models()
        assert caught.value.status == status
        assert KEY not in caught.value.message
        assert len(await models()) == 1


async def test_an_endless_catalogue_fails_all_waiting_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_module, "_SECONDS", 0.5)

    class Slow(Scripted):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                await asyncio.sleep(0.2)
            await super().__call__(scope, receive, send)

    upstream = Slow(page(100))
    async with catalogue_of(upstream) as models:
        given = await asyncio.gather(*(models() for _ in range(5)), return_exceptions=True)
        assert [getattr(error, "code", None) for error in given] == ["upstream_timeout"] * 5
        assert len(upstream.asked) < 5


async def test_items_that_name_no_model_are_skipped() -> None:
    items = [{"code": "a/b"}, {"name": "x"}, "a/c", {"code": 5}, {"code": "c/d", "provider_code": 7}]
    async with catalogue_of(Scripted(JSONResponse(items))) as models:
        assert [model["id"] for model in await models()] == ["a/b", "c/d"]


async def test_the_key_is_removed_from_a_catalogue_that_repeats_it() -> None:
    listed = JSONResponse({"data": [{"code": f"a/{KEY}", "provider_code": f"of {KEY}"}]})
    async with catalogue_of(Scripted(listed)) as models:
        assert await models() == [{"id": "a/[key]", "object": "model", "created": 0, "owned_by": "of [key]"}]
