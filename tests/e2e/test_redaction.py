"""In sessions, no key appears in a log, reply, metric, page or trace, and no spoken word outside a reply.

A sidecar process that logs everything runs through every way in which upstream and clients fail. Its upstream repeats
keys and words in every message.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.bots import SIGNAL
from support.redaction import (
    CLIENT_KEY,
    KNOWN,
    LEAKY,
    MISPLACED,
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

_READY = {"type": "ready", "session_id": LEAKY, "slng_request_id": "{key}{provider}"}
# The key is filled in before the text is escaped, since escaping could hide it.
_ESCAPED = escaped(LEAKY.replace("{key}", SECRETS["SLNG_API_KEY"]))

# The faults of upstream, with every secret that it knows in each of its texts.
FAULTS: list[dict[str, Any]] = [
    {"do": "refuse", "status": status, "body": {"error": LEAKY}} for status in (400, 401, 403, 404, 429, 500, 503)
]
FAULTS += [
    {"do": "refuse", "status": 502, "body": LEAKY, "content_type": "text/html", "headers": {"X-Request": LEAKY}},
    {"do": "refuse", "status": 401, "body": {"odd": [LEAKY]}, "headers": {"X-Slng-Auth-Source": LEAKY}},
    {"do": "refuse", "status": 403, "body": '{"message":' + _ESCAPED + "}"},
    {"do": "refuse", "status": 403, "body": '{"odd":[' + _ESCAPED + "]}"},
    {"do": "refuse", "status": 302, "body": "", "headers": {"Location": "http://127.0.0.1:9/?" + LEAKY}},
    {"do": "close", "when": "init", "code": 1008, "reason": LEAKY},
    {"do": "error", "when": "init", "code": "auth_error", "message": LEAKY, "then_close": 1008},
    {"do": "error", "when": "init", "code": LEAKY, "message": LEAKY, "then_close": 1011},
    {"do": "send", "when": "init", "message": _READY},
    {"do": "send", "when": "init", "message": '{"type":"ready","slng_request_id":' + _ESCAPED + "}"},
    {"do": "error", "when": "ready", "code": "provider_error", "message": LEAKY},
    {"do": "error", "when": "audio", "code": LEAKY, "message": LEAKY, "then_close": 1011},
    {"do": "send", "when": "ready", "message": {"type": LEAKY, "detail": LEAKY}},
    {"do": "send", "when": "ready", "message": '{"type":"notice","detail":' + _ESCAPED + "}"},
    {"do": "send", "when": "ready", "message": '{"type":"error","code":' + _ESCAPED + ',"message":' + _ESCAPED + "}"},
    {"do": "send", "when": "ready", "message": {"type": "error", "data": {"status_code": 401, "description": LEAKY}}},
    {"do": "send", "when": "ready", "message": "not JSON: " + LEAKY},
    {"do": "close", "when": "audio", "code": 4001, "reason": LEAKY},
    {"do": "drop", "when": "audio"},
    {"do": "oversized", "when": "ready", "bytes": 17_000_000},
]


async def fail(world: World, number: int, fault: dict[str, Any]) -> None:
    """Run a session of each kind under this fault, on a model that no other session uses: all faults run at once."""
    model = f"simulator/signal:{number}"
    # STT sessions use the client's own provider key, TTS sessions the sidecar's.
    await world.simulator.inject(**with_secrets(fault, CLIENT_KEY), kind="stt", model=model)
    await world.simulator.inject(**with_secrets(fault), kind="tts", model=model)
    await asyncio.gather(
        world.run_session("stt", model, {"X-Slng-Provider-Key": CLIENT_KEY}, extended=number % 2 == 0),
        world.run_session("tts", model, extended=number % 2 == 1),
    )


@pytest.mark.parametrize("form", ["text", "json"])
async def test_failing_sessions_leak_no_secret(form: str) -> None:
    async with leaky_world(SIDECAR_LOG_FORMAT=form) as world:
        await asyncio.gather(*(fail(world, number, fault) for number, fault in enumerate([*FAULTS, *FAULTS[-16:]])))
    world.assert_searchable("not opened", "lost", "ready")
    assert world.found["log"].count(" session ") > 3 * len(FAULTS)
    assert world.found["replies"].count("[key]") > 2 * len(FAULTS), "no message of upstream was repeated"
    assert len(world.collector.named("stt session")) >= len(FAULTS)
    assert world.leaks() == []


async def refused(
    world: World, path: str, headers: dict[str, str] | None = None, subprotocol: str | None = None
) -> None:
    """Request a session at an address that may be invalid."""
    kind, _, rest = path.partition("/")
    model, question, query = rest.partition("?")
    with world.refusals():
        async with talking(world.sidecar.url, kind, model, headers or authorized(), question + query) as talk:
            await world.send_all(talk, kind, extended=False)


async def send_raw(world: World, request: str) -> None:
    """Send bytes that are not HTTP, and keep the reply."""
    host, _, port = world.sidecar.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    world.keep(await reader.read(65_536))
    writer.close()
    await writer.wait_closed()


async def test_keys_that_clients_misplace_are_not_leaked() -> None:
    async with leaky_world(SIDECAR_LOG_FORMAT="json") as world:
        await world.run_session("stt", SIGNAL, {"X-Slng-Provider-Key": MISPLACED})
        await world.run_session("tts", SIGNAL, {"X-SLNG-Session-Id": f"{MISPLACED},b"}, extended=True)
        for address in (
            f"tts/{MISPLACED}",
            f"stt/{MISPLACED}%2Fx/y",
            f"tts/{SIGNAL}?region={MISPLACED}!",
            f"tts/{SIGNAL}?world-part={MISPLACED}!",
            f"tts/{SIGNAL}?gateway={MISPLACED}",
            f"{MISPLACED}/{SIGNAL}",
            f"stt/{SIGNAL}?api_key={MISPLACED}",
        ):
            await refused(world, address)
        for odd in (
            {"Authorization": f"Bearer {MISPLACED}"},
            {"Authorization": f"Basic {MISPLACED}"},
            {"X-API-Key": MISPLACED},
            {"Origin": f"http://{MISPLACED}.example"},
            {"Cookie": f"key={MISPLACED}"},
        ):
            await refused(world, f"stt/{SIGNAL}?token={MISPLACED}", odd)
            await world.ask("GET", f"/v1/status?token={MISPLACED}", headers=odd)
        await refused(world, f"stt/{SIGNAL}", authorized(**{"Sec-WebSocket-Protocol": MISPLACED}))
        async with talking(world.sidecar.url, "tts", SIGNAL, authorized()) as talk:
            await talk.send({**TTS_INIT, "voice": {"key": KNOWN}, "api_key": KNOWN, "config": KNOWN})
            await talk.send({"type": "close"})
            world.keep(await talk.until_closed(), talk.messages)
        async with talking(world.sidecar.url, "stt", SIGNAL, authorized()) as talk:
            await talk.send(json.dumps({"type": "audio", "data": KNOWN}), {**STT_INIT, "api_key": KNOWN}, STT_INIT)
            await talk.send({"type": "close"})
            world.keep(await talk.until_closed(), talk.messages)
        await world.ask("GET", f"/{KNOWN}")
        await world.ask("PATCH", f"/v1/audio/speech?key={MISPLACED}")
        speech = f"/v1/bridges/unmute/tts/{SIGNAL}"
        await world.ask("POST", speech, content=KNOWN)
        await world.ask("POST", speech, json={"text": WORDS, KNOWN: KNOWN, "voice": [KNOWN], "config": KNOWN})
        await world.ask("POST", speech, content=WORDS, headers=authorized(**{"Content-Type": f"audio/{MISPLACED}"}))
        openai = {"input": WORDS, "model": KNOWN, "voice": KNOWN, "api_key": KNOWN}
        await world.ask("POST", "/v1/audio/speech", json=openai)
        await world.ask("POST", "/v1/audio/speech", json={**openai, "response_format": KNOWN, "speed": KNOWN})
        transcriptions = "/v1/audio/transcriptions"
        file = {"file": (KNOWN, WAV, f"audio/{MISPLACED}")}
        await world.ask("POST", transcriptions, data={"model": KNOWN, "language": KNOWN, KNOWN: KNOWN}, files=file)
        await world.ask("POST", transcriptions, data={"response_format": KNOWN}, files=file)
        await world.ask("POST", transcriptions, files={KNOWN: (KNOWN, PCM)})
        await world.ask(
            "POST", transcriptions, content=KNOWN, headers=authorized(**{"Content-Type": f"x; boundary={KNOWN}"})
        )
        await world.ask("GET", f"/v1/models/{KNOWN}")
        await send_raw(world, f"{MISPLACED} {MISPLACED}\r\n\r\n")
        await send_raw(world, f"GET /{MISPLACED} HTTP/1.1\r\n{MISPLACED}\r\n\r\n")
    world.assert_searchable("refused a request")
    assert MISPLACED in world.found["replies"], "no reply repeated what the client had sent"
    assert world.leaks() == []
