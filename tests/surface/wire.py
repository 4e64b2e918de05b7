"""Collect the wire in practice: the fields that really come, in a few short sessions and requests with the simulator.

Both sides of the gateway are collected: what its clients get, and what it sends to SLNG.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
from support.running import STT_INIT, TTS_INIT, Talk, gateway_and_simulator, talking
from surface import product

_MODEL = "simulator/signal:1"
_EXTENDED = "slng-sidecar.v1"
# What a client may request in headers. Regions are requested in the query.
_HEADERS = {
    "Authorization": "Bearer any",
    "X-SLNG-Agent-Id": "agent",
    "X-SLNG-Session-Id": "session",
    "X-Slng-Provider-Key": "own-key",
}
# Objects that hold counts. Their keys differ from run to run.
_COUNTS = ("dropped_or_ignored",)


async def wire() -> dict[str, Any]:
    """Run the sessions, send the requests, and return what came on both sides."""
    fast = product.SimulatorOptions.fast
    # With `sidecar_simulate`, a client may request a region although SLNG_BASE_URL is set.
    async with (
        gateway_and_simulator(fast(utterance_end=True, segments=True), sidecar_simulate=True) as (url, simulator),
        httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as http,
    ):
        sessions = {
            "stt extended": await _stt_extended(url, simulator, http),
            "stt plain": await _stt_plain(url),
            "tts extended": await _tts_extended(url, simulator),
            "tts plain": await _tts_plain(url),
        }
        return {
            "HTTP": await _requests(http),
            "clients get": sessions,
            "simulator": await _simulator(simulator),
            "upstream gets": _upstream(simulator.log.records),
        }


async def _stt_extended(url: str, simulator: product.Simulator, http: httpx.AsyncClient) -> dict[str, Any]:
    async with talking(url, "stt", _MODEL, headers=_HEADERS, query="?region=eu-west-1", subprotocol=_EXTENDED) as talk:
        init = {**STT_INIT, "confidence_scope": "all"}
        await talk.send(init, product.encode([1, 2, 3, 4]))
        await talk.until("partial_transcript")
        await talk.send({"type": "finalize", "id": "f1"})
        await talk.until("finalized")
        await talk.send({"type": "update", "id": "u", "config": {"language": "de", "encoding": "x"}}, bytes(16_000))
        await talk.until("updated")
        simulator.inject(do="profile", kind="stt", when="now", set={"confidence": 0.2})
        await talk.send(product.encode([5, 6, product.Word(7, gap=20)]), {"type": "finalize", "id": "f2"})
        assert (await talk.until("finalized"))["outcome"] == "dropped"
        simulator.inject(do="drop", kind="stt", when="now")
        await talk.until("status")
        await talk.send(product.encode([8, product.Word(9, gap=20)]))
        assert (await talk.until("status"))["state"] == "connected"
        simulator.inject(do="error", kind="stt", when="now", code="pronunciation_not_found", message="no", status=400)
        await talk.until("error")
        status = (await http.get("/v1/status")).json()
        await talk.send({"type": "close"})
        closed = await talk.until_closed()
    return {"messages": _messages(talk), "close": closed[0], "status": shape(status)}


async def _stt_plain(url: str) -> dict[str, Any]:
    async with talking(url, "stt", _MODEL) as talk:
        await talk.send({**STT_INIT, "standby": True}, product.encode([1, 2, 3, 4]))
        await talk.until("partial_transcript")
        await talk.send({"type": "finalize"})
        while not (await talk.until("final_transcript")).get("from_finalize"):
            pass
        await talk.send(STT_INIT)
        await talk.until("error")
        await talk.send({"type": "close"})
        closed = await talk.until_closed()
    return {"messages": _messages(talk), "close": closed[0]}


async def _tts_extended(url: str, simulator: product.Simulator) -> dict[str, Any]:
    async with talking(url, "tts", _MODEL, headers=_HEADERS, query="?world-part=eu", subprotocol=_EXTENDED) as talk:
        simulator.inject(do="drop", kind="tts", when="audio", after_ms=100)
        await talk.send({**TTS_INIT, "voice": "a", "deliver": "linear16"}, *_text("a", "n1 n2 n3"), *_text("b", "n4"))
        ends = [(await talk.until("audio_end"))["reason"] for _ in range(2)]
        assert ends == ["failed", "completed"]
        await talk.send({"type": "update", "id": "u", "voice": "b", "config": {"sample_rate": 8000, "speed": 2}})
        await talk.until("updated")
        await talk.send(*_text("c", "n5 " * 40), {"type": "clear", "context_id": "c"})
        await talk.until("cleared")
        await talk.send({"type": "text", "context_id": "d", "text": "n6" * 6000})
        await talk.until("error")
        await talk.send({"type": "close"})
        closed = await talk.until_closed()
    return {"messages": _messages(talk), "close": closed[0]}


async def _tts_plain(url: str) -> dict[str, Any]:
    async with talking(url, "tts", _MODEL) as talk:
        await talk.send(TTS_INIT, {"type": "text", "text": "n1 n2"}, {"type": "flush"})
        await talk.until("audio_end")
        await talk.send({"type": "clear"})
        await talk.until("cleared")
        await talk.send({"type": "text", "text": "n3" * 6000, "flush": True})
        await talk.until("error")
        await talk.send({"type": "close"})
        closed = await talk.until_closed()
    return {"messages": _messages(talk), "close": closed[0]}


def _text(name: str, words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "context_id": name, "text": words}, {"type": "flush", "context_id": name}]


async def _requests(http: httpx.AsyncClient) -> dict[str, Any]:
    """Send one request for each kind of reply, and return its status, header names and fields."""
    file = {"file": ("a.pcm", product.encode([1, 2, product.Word(3, gap=20)]), "audio/pcm;rate=16000")}
    audio = {"audio": file["file"]}
    speech = {"model": _MODEL, "input": "n1", "voice": "alloy"}
    words = {"model": _MODEL}
    asked: dict[str, dict[str, Any]] = {
        "GET /": {},
        "GET /docs": {},
        "GET /healthz": {},
        "GET /metrics": {},
        "GET /nothing": {},
        "GET /readyz": {},
        "GET /v1/models": {},
        "POST /v1/audio/speech": {"json": {**speech, "instructions": "x"}, "headers": _HEADERS},
        "POST /v1/audio/speech pcm": {"json": {**speech, "response_format": "pcm", "speed": 2.0}},
        "POST /v1/audio/speech sse": {"json": {**speech, "stream_format": "sse"}},
        "POST /v1/audio/transcriptions": {"data": {**words, "prompt": "x"}, "files": file, "headers": _HEADERS},
        "POST /v1/audio/transcriptions stream": {"data": {**words, "stream": "true"}, "files": file},
        "POST /v1/audio/transcriptions verbose": {
            "data": {**words, "response_format": "verbose_json", "timestamp_granularities[]": "word"},
            "files": file,
        },
        f"POST /v1/bridges/unmute/stt/{_MODEL}": {"files": audio},
        f"POST /v1/bridges/unmute/tts/{_MODEL}": {"json": {"text": "n1"}},
        f"POST /v1/bridges/unmute/tts/{_MODEL} refused": {"json": {"text": ""}},
    }
    made = {}
    for name, arguments in asked.items():
        method, path, *_ = name.split()
        reply = await http.request(method, path, **arguments)
        made[name] = {"status": reply.status_code, "headers": _reply_headers(reply.headers)}
        if (body := _body_shape(reply)) is not None:
            made[name]["body"] = body
    return made


async def _simulator(simulator: product.Simulator) -> dict[str, Any]:
    """Return the fields of what the simulator's own routes answer."""
    async with httpx.AsyncClient(base_url=simulator.http_url, trust_env=False, headers=_HEADERS) as http:
        log = (await http.get("/_sim/log")).json()
        made = {path: shape((await http.get(path)).json()) for path in ("/v1/catalog/models", "/v1/me")}
        faults = shape((await http.get("/_sim/faults")).json())
    # The messages and headers in a record belong to the sessions, which are collected above.
    return made | {
        "/_sim/faults": faults,
        "/_sim/log": {**shape(log), "records": sorted({name for record in log["records"] for name in record})},
    }


def _reply_headers(headers: httpx.Headers) -> dict[str, str]:
    """Return the headers of a reply. A value is left out if it differs from reply to reply."""
    made = {name: "…" for name in headers if name not in ("date", "server")}
    for name in (
        "content-type",
        "x-channels",
        "x-ignored",
        "x-model",
        "x-sample-format",
        "x-sample-rate",
        "x-upstream",
    ):
        if name in headers:
            made[name] = headers[name]
    # The rest of a text's type is the library's: the encoding, or the version of Prometheus' format.
    made["content-type"] = re.sub(r"^(text/[^;]+).*", r"\1", headers.get("content-type", ""))
    if "server-timing" in headers:
        made["server-timing"] = ", ".join(
            each.partition(";")[0].strip() for each in headers["server-timing"].split(",")
        )
    return made


def _body_shape(reply: httpx.Response) -> Any:
    kind = reply.headers.get("content-type", "").partition(";")[0]
    if kind == "application/json":
        return shape(reply.json())
    if kind == "text/event-stream":
        events = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
        return by_type(json.loads(event) for event in events if event != "[DONE]")
    return None


def _upstream(records: Iterable[product.Record]) -> dict[str, Any]:
    """Return what SLNG receives: requests with the sidecar's additions, and the messages of WebSockets."""
    made: dict[str, dict[str, Any]] = {}
    for record in records:
        fields = made.setdefault(record.kind, {"headers": {}, "query": {}, "messages": []})
        fields["headers"] |= {
            name: value for name, value in record.headers.items() if name.startswith("x-") or name == "authorization"
        }
        fields["query"] |= record.query
        fields["messages"] += [message for _, message in record.received]
    for fields in made.values():
        fields["messages"] = by_type(fields["messages"])
    return made


def _messages(talk: Talk) -> dict[str, Any]:
    return by_type(talk.messages) | ({"binary": "sound"} if talk.audio else {})


def by_type(messages: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the shape of each type of message: all fields that came, in any message of the type."""
    made: dict[str, Any] = {}
    for message in messages:
        kind = str(message.get("type", "without a type"))
        # Each state has its own fields.
        kind += f" {message['state']}" if kind == "status" else ""
        fields = shape(message)
        made[kind] = _both(made[kind], fields) if kind in made else fields
    return made


def shape(value: Any) -> Any:
    """Return a JSON value in which each value is replaced by its type."""
    match value:
        case dict():
            return {name: "object" if name in _COUNTS else shape(each) for name, each in value.items()}
        case list():
            shapes = [shape(each) for each in value]
            while len(shapes) > 1:
                shapes = [_both(shapes[0], shapes[1]), *shapes[2:]]
            return shapes
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case None:
            return "null"
        case _:
            return "string"


def _both(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            name: _both(one[name], other[name]) if name in one and name in other else {**one, **other}[name]
            for name in {**one, **other}
        }
    if isinstance(one, list) and isinstance(other, list):
        return [_both(one[0], other[0])] if one and other else one or other
    if one == other:
        return one
    kinds = {
        kind
        for each in (one, other)
        for kind in (each.split(" or ") if isinstance(each, str) else [type(each).__name__])
    }
    return " or ".join(sorted(kinds))
