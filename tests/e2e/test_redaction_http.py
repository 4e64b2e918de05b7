"""In HTTP requests, no key appears in a log, reply, metric, page or trace, and no spoken word outside a reply.

``test_redaction.py`` checks the same for sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.bots import SIGNAL
from support.http_tools import QuietHandler, http_server
from support.redaction import (
    CLIENT_KEY,
    CORES,
    EXTERNAL,
    LEAKY,
    PCM,
    SECRETS,
    WAV,
    WORDS,
    World,
    authorized,
    escaped,
    leaky_world,
    with_secrets,
)
from support.running import STT_INIT, TTS_INIT, talking

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def request_speech(world: World, model: str = EXTERNAL, **headers: str) -> None:
    """Request speech in each form."""
    given = authorized(**headers)
    async with asyncio.TaskGroup() as tasks:
        path = f"/v1/bridges/unmute/tts/{model}"
        tasks.create_task(world.ask("POST", path, json={"text": WORDS}, headers=given))
        for form in ("audio", "sse"):
            asked = {"input": WORDS, "model": model, "stream_format": form}
            tasks.create_task(world.ask("POST", "/v1/audio/speech", json=asked, headers=given))


async def request_transcripts(world: World, model: str = EXTERNAL, **headers: str) -> None:
    """Request transcripts in each form."""
    given, file = authorized(**headers), ("hello.wav", WAV)
    openai, slng = "/v1/audio/transcriptions", f"/v1/bridges/unmute/stt/{model}"
    async with asyncio.TaskGroup() as tasks:
        for more in ({}, {"stream": "true"}, {"response_format": "verbose_json"}):
            data = {"model": model, **more}
            tasks.create_task(world.ask("POST", openai, data=data, files={"file": file}, headers=given))
        tasks.create_task(world.ask("POST", slng, files={"audio": file}, headers=given))
        tasks.create_task(world.ask("POST", slng, content=WAV, headers={**given, "Content-Type": "audio/wav"}))


IN_SESSIONS: list[dict[str, Any]] = [
    {"do": "refuse", "status": 404, "body": {"error": LEAKY}},
    {"do": "refuse", "status": 401, "body": {"error": LEAKY}},
    {"do": "error", "when": "init", "code": LEAKY, "message": LEAKY, "then_close": 1011},
    {"do": "send", "when": "init", "message": {"type": "ready", "slng_request_id": LEAKY}},
    {"do": "error", "when": "audio", "code": "provider_error", "message": LEAKY, "then_close": 1011},
    {"do": "close", "when": "audio", "code": 1011, "reason": LEAKY},
]
IN_REPLIES: list[dict[str, Any]] = [
    {"do": "refuse", "status": status, "body": {"error": LEAKY}, "headers": {"X-Slng-Auth-Source": LEAKY}}
    for status in (400, 401, 429, 503)
]
IN_REPLIES += [
    {"do": "refuse", "status": 200, "body": LEAKY, "content_type": f"text/{LEAKY}"},
    {"do": "profile", "set": {"break_bytes": 2000}},
]


async def fail_in_session(world: World, model: str, fault: dict[str, Any]) -> None:
    await world.simulator.inject(**with_secrets(fault), kind="stt", model=model, times=0)
    # A gateway without the HTTP bridge, so that speech goes over the WebSocket bridge.
    await world.simulator.inject(do="refuse", status=405, kind="http", model=model, times=0)
    await world.simulator.inject(**with_secrets(fault), kind="tts", model=model, times=0)
    await asyncio.gather(request_transcripts(world, model), request_speech(world, model))


async def fail_in_reply(world: World, model: str, fault: dict[str, Any]) -> None:
    await world.simulator.inject(**with_secrets(fault), kind="http", model=model, times=0)
    await request_speech(world, model)


async def test_failing_http_requests_leak_no_secret() -> None:
    async with leaky_world(SIDECAR_LOG_FORMAT="json") as world:
        await asyncio.gather(request_transcripts(world), request_speech(world))
        assert world.found["replies"].count("n424242 n434343") >= 5, "nothing was transcribed"
        # This comes first, since a gateway that answered 404 or 405 is not called over HTTP again.
        for faults, fail in ((IN_REPLIES, fail_in_reply), (IN_SESSIONS, fail_in_session)):
            async with asyncio.TaskGroup() as tasks:
                for number, fault in enumerate(faults):
                    tasks.create_task(fail(world, f"simulator/signal:{number}", fault))
            await world.simulator.remove_faults()
    world.assert_searchable("transcription failed", "speech failed", "not opened")
    assert world.found["replies"].count("[key]") > 2 * len(IN_SESSIONS)
    assert '"type":"speech.audio.delta"' in world.found["replies"]
    assert world.leaks() == []


class Parrot:
    """An upstream that refuses each request and repeats everything that the request contained, in a chosen form."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.way = 0


def refusal(way: int, shown: str) -> tuple[int, str, str]:
    """Return a status, a content type and a body."""
    ways = [
        (401, "application/json", json.dumps({"error": shown})),
        (403, "text/plain", shown),
        (404, "application/json", json.dumps({"detail": {"headers": [shown]}})),
        (429, "application/json", '{"message":' + escaped(shown) + "}"),
        (400, "application/json", '{"odd":' + escaped(shown) + "}"),
        (500, "text/html", f"<html>{shown}"),
        (302, "text/plain", shown),
        (200, "application/json", '{"data":[{"code":' + escaped(f"a/{shown}") + ',"provider_code":"x"}]}'),
    ]
    return ways[way % len(ways)]


WAYS = 8


@contextlib.contextmanager
def parrot() -> Iterator[tuple[str, Parrot]]:
    server = Parrot()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode(errors="replace")
            keys = [self.headers.get(name, "") for name in ("Authorization", "X-Slng-Provider-Key")]
            server.requests.append(f"{self.path} {self.headers} {body}")
            shown = " ".join([*keys, WORDS, body])
            status, kind, data = refusal(server.way, shown)
            self.send_response(status, shown)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(data.encode())))):
                self.send_header(name, value)
            for name in ("X-Slng-Auth-Source", "X-Request-Id", "WWW-Authenticate", "Server-Timing", "Set-Cookie"):
                self.send_header(name, shown)
            self.send_header("Location", f"http://127.0.0.1:9/?{shown}")
            self.end_headers()
            self.wfile.write(data.encode())

        do_POST = do_GET

    with http_server(Handler) as url:
        yield url, server


@pytest.mark.parametrize("whose", ["ours", "the client's"])
async def test_an_upstream_that_repeats_its_requests_leaks_no_secret(whose: str) -> None:
    """With the sidecar's key there are standby connections, which are refused too. The client's key is passed on, and
    the sidecar's token never is.
    """
    ours: dict[str, str] = {"SIDECAR_STANDBY": "1"}
    theirs = {"SLNG_KEY_PASSTHROUGH": "true", "SIDECAR_LOG_FORMAT": "json"}
    shown = {"X-API-Key": SECRETS["SIDECAR_TOKEN"], "Authorization": f"Bearer {CLIENT_KEY}"}
    # If the token is the bearer, the key is the sidecar's, whether passthrough is on or not.
    kinds = [{}, {"X-Slng-Provider-Key": CLIENT_KEY}] if whose == "ours" else [shown, {}]
    settings = ours if whose == "ours" else theirs
    with parrot() as (upstream, server):
        async with leaky_world(upstream=upstream, **settings) as world:
            for way in range(WAYS):
                server.way = way
                for headers in kinds:
                    await asyncio.gather(
                        world.run_session("stt", headers=headers),
                        world.run_session("tts", headers=headers, extended=True),
                        request_speech(world, **headers),
                        request_transcripts(world, **headers),
                        world.ask("GET", "/v1/models", headers=authorized(**headers)),
                    )
        everything = "".join(server.requests)
    world.assert_searchable("not opened", *(["standby connection to"] if whose == "ours" else []))
    assert world.found["replies"].count("[key]") > 5 * WAYS
    assert '"object":"list"' in world.found["replies"]
    assert CORES["SLNG's key"] in everything
    assert CORES["the client's key"] in everything
    assert CORES["the token"] not in everything
    assert world.leaks() == []


async def test_lost_standby_connections_and_cut_sessions_leak_no_secret() -> None:
    settings = {"SIDECAR_STANDBY": "1", "SLNG_STT_MODEL": SIGNAL, "SLNG_TTS_MODEL": SIGNAL}
    async with leaky_world(SIDECAR_DRAIN_SECONDS="0.3", SIDECAR_CLOSE_TIMEOUT="1", **settings) as world:
        await world.simulator.inject(**with_secrets({"do": "send", "when": "ready", "message": LEAKY}), kind="stt")
        await world.simulator.inject(
            **with_secrets({"do": "close", "when": "now", "code": 4001, "reason": LEAKY}), times=0
        )
        async with (
            talking(world.sidecar.url, "stt", EXTERNAL, authorized()) as transcribing,
            talking(world.sidecar.url, "tts", EXTERNAL, authorized(), subprotocol="slng-sidecar.v1") as speaking,
        ):
            await transcribing.send(STT_INIT, PCM)
            await speaking.send(TTS_INIT, {"type": "text", "text": f"{WORDS} " * 200}, {"type": "flush"})
            await speaking.until("ready")
            await world.simulator.remove_faults()
            # Upstream sends nothing from here on, so all of these requests are still running at the end.
            for kind in ("stt", "tts"):
                await world.simulator.inject(do="mute", kind=kind, when="accepted", times=0)
            requests = [
                asyncio.create_task(world.ask("POST", "/v1/audio/transcriptions", data={"model": EXTERNAL}, files=file))
                for file in ({"file": ("a.wav", WAV)}, {"file": ("b.wav", WAV)})
            ]
            await asyncio.sleep(0.5)
            await world.read_pages()
            world.sidecar.process.terminate()
            await asyncio.gather(*requests)
            world.keep(
                await transcribing.until_closed(),
                transcribing.messages,
                await speaking.until_closed(),
                speaking.messages,
            )
            assert await world.sidecar.ends() == 0
    world.assert_searchable("draining", "standby connection to", "stopping")
    assert "'draining'" in world.found["replies"] or '"draining"' in world.found["replies"]
    assert world.leaks() == []
