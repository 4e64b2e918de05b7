"""No key appears in a log, a reply, a metric or a page, and no spoken word in a log, a metric or a page.

A sidecar in a process of its own, logging all it can, is driven through every way in which upstream and clients fail,
by an upstream that repeats keys and words wherever it says anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from bots import SIGNAL, SimulatorProcess, simulator_process
from processes import Running, serving
from running import STT_INIT, TTS_INIT, talking
from slng_sidecar.simulator import signal
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.slow

EXTERNAL = "simulator/signal:1"
SECRETS = {
    "SLNG_API_KEY": "sk-slng-1f0c9b7e5d",
    "SLNG_PROVIDER_KEY": "sk-provider-88aa41",
    "SIDECAR_TOKEN": "token-local-5e6f70",
}
CLIENT_KEY = "sk-clients-own-c3d2"
WORDS = "n424242 n434343"
SOUND = signal.encode([signal.Word(424_242), signal.Word(434_343)])
# What a client knows, and what upstream does: the key that it was dialled with, and one provider's key.
KNOWN = f"{CLIENT_KEY} {WORDS}"
LEAKY = f"{SECRETS['SLNG_API_KEY']} {{provider_key}} {WORDS}"

# What upstream does, with all that it knows in every text of its own.
FAULTS: list[dict[str, Any]] = [
    {"do": "refuse", "status": status, "body": {"error": LEAKY}} for status in (400, 401, 403, 404, 429, 500, 503)
]
FAULTS += [
    {"do": "refuse", "status": 502, "body": LEAKY, "content_type": "text/html", "headers": {"X-Request": LEAKY}},
    {"do": "close", "when": "init", "code": 1008, "reason": LEAKY},
    {"do": "error", "when": "init", "code": "auth_error", "message": LEAKY, "then_close": 1008},
    {"do": "error", "when": "init", "code": LEAKY, "message": LEAKY, "then_close": 1011},
    {"do": "error", "when": "ready", "code": "provider_error", "message": LEAKY},
    {"do": "error", "when": "audio", "code": LEAKY, "message": LEAKY, "then_close": 1011},
    {"do": "send", "when": "ready", "message": {"type": LEAKY, "detail": LEAKY}},
    {"do": "send", "when": "ready", "message": "not JSON: " + LEAKY},
    {"do": "close", "when": "audio", "code": 4001, "reason": LEAKY},
    {"do": "drop", "when": "audio"},
    {"do": "oversized", "when": "ready", "bytes": 17_000_000},
]


class Seen:
    """All that came out of the sidecar, but its log."""

    def __init__(self) -> None:
        self.replies: list[str] = []

    def take(self, *what: object) -> None:
        self.replies += [str(each) for each in what]


@contextlib.asynccontextmanager
async def leaky_world() -> AsyncIterator[tuple[Running, SimulatorProcess, Seen]]:
    async with (
        simulator_process(first_audio_ms=20) as simulator,
        serving(
            "--log-level", "debug", cwd=None, SLNG_BASE_URL=simulator.url, SIDECAR_RECONNECT_SECONDS="1", **SECRETS
        ) as sidecar,
    ):
        yield sidecar, simulator, Seen()


def headers(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS['SIDECAR_TOKEN']}", **more}


def knowing(fault: dict[str, Any], provider_key: str) -> dict[str, Any]:
    """Let a fault tell the provider's key that upstream was given."""
    found: dict[str, Any] = json.loads(json.dumps(fault).replace("{provider_key}", provider_key))
    if "reason" in found:
        found["reason"] = found["reason"][:120]
    return found


async def converse(sidecar: Running, seen: Seen, kind: str, model: str, *, extended: bool, **more: str) -> None:
    """Hold a session for as long as it goes, and keep what it was told."""
    try:
        async with talking(
            sidecar.url, kind, model, headers(**more), subprotocol="slng-sidecar.v1" if extended else None
        ) as talk:
            try:
                if kind == "stt":
                    await talk.send(STT_INIT, SOUND, {"type": "finalize"}, {"type": "nonsense " + KNOWN}, "{" + KNOWN)
                else:
                    context = {"context_id": KNOWN[:100]} if extended else {}
                    await talk.send(TTS_INIT, {"type": "text", **context, "text": WORDS}, {"type": "flush", **context})
                    await talk.send({"type": "clear", "context_id": KNOWN}, {"type": "text", "text": [KNOWN]})
                await talk.send({"type": "close"})
                seen.take(await talk.until_closed())
            except (ConnectionClosed, TimeoutError) as error:
                seen.take(error)
            seen.take(*(message for message in talk.messages if message["type"] not in ("final_transcript",)))
    except InvalidStatus as error:
        seen.take(error, error.response.headers, error.response.body)


async def ask(client: httpx.AsyncClient, seen: Seen, path: str, **request: Any) -> None:
    with contextlib.suppress(httpx.HTTPError):
        reply = await client.request(url=path, **request)
        seen.take(dict(reply.headers), reply.text if "audio" not in reply.headers.get("content-type", "") else "")


@pytest.mark.timeout(120)
async def test_no_key_and_no_word_comes_out_where_it_must_not() -> None:
    async with leaky_world() as (sidecar, simulator, seen):
        for fault in FAULTS:
            for kind in ("stt", "tts"):
                own = kind == "stt"
                await simulator.inject(**knowing(fault, CLIENT_KEY if own else SECRETS["SLNG_PROVIDER_KEY"]), kind=kind)
                more = {"X-Slng-Provider-Key": CLIENT_KEY} if own else {}
                await converse(sidecar, seen, kind, EXTERNAL, extended=own, **more)
                await simulator.forget_faults()
        await converse(sidecar, seen, "stt", SIGNAL, extended=False, **{"X-Slng-Provider-Key": CLIENT_KEY})
        await converse(sidecar, seen, "tts", KNOWN, extended=False)
        await converse(sidecar, seen, "tts", SIGNAL, extended=True, **{"X-SLNG-Session-Id": "a,b"})
        async with httpx.AsyncClient(trust_env=False, base_url=sidecar.url, headers=headers()) as client:
            speech = f"/v1/bridges/unmute/tts/{EXTERNAL}"
            await ask(client, seen, speech, method="POST", json={"text": WORDS})
            await ask(client, seen, speech, method="POST", content=KNOWN)
            await ask(
                client, seen, "/v1/audio/speech", method="POST", json={"input": WORDS, "model": KNOWN, "voice": KNOWN}
            )
            for fault in (
                {"do": "refuse", "status": 401, "body": {"error": LEAKY}},
                {"do": "manners", "set": {"break_bytes": 2000}},
            ):
                await simulator.inject(**knowing({"kind": "http", **fault}, SECRETS["SLNG_PROVIDER_KEY"]))
                await ask(client, seen, speech, method="POST", json={"text": WORDS})
                await simulator.forget_faults()
            await ask(client, seen, f"/{KNOWN}", method="GET")
            await ask(client, seen, speech, method="GET", headers={"Authorization": f"Bearer {KNOWN}"})
            told = [(await client.get(path)).text for path in ("/metrics", "/v1/status", "/", "/openapi.json")]
            async with httpx.AsyncClient(trust_env=False, base_url=sidecar.url) as stranger:
                await ask(stranger, seen, "/v1/status", method="GET", headers={"Authorization": "Bearer wrong"})
        # The sessions' last lines.
        await asyncio.sleep(0.2)
        log = sidecar.err
    assert log.count("session") > 2 * len(FAULTS), "the failures were not logged at all"
    assert len(seen.replies) > 2 * len(FAULTS)
    for name, where in {"log": log, "pages and metrics": "".join(told), "replies": json.dumps(seen.replies)}.items():
        # What a client itself sent may come back to it, but for its key.
        ours = [SECRETS["SLNG_API_KEY"], SECRETS["SLNG_PROVIDER_KEY"]]
        secrets = ours if name == "replies" else [*SECRETS.values(), CLIENT_KEY]
        found = [secret for secret in secrets if secret in where]
        assert not found, f"{name}: {where[max(0, where.find(found[0]) - 300) : where.find(found[0]) + 60]}"
        if name != "replies":
            assert "424242" not in where, (
                f"{name}: {where[max(0, where.find('424242') - 300) : where.find('424242') + 60]}"
            )
