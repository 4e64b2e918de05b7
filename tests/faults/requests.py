"""HTTP requests: what can go wrong during them and when, and what is promised of each."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from faults.cases import FACTOR, TOO_LATE
from faults.cells import World
from slng_sidecar.audio.wav import wav_header
from slng_sidecar.engines import signal
from slng_sidecar.simulator import Fault, Simulator
from slng_sidecar.simulator.records import Record
from support.http_tools import server_sent_events

WAYS = {
    "websocket": "Speech over HTTP, by upstream's WebSocket",
    "bridge": "Speech over HTTP, by upstream's HTTP bridge",
    "file": "A file transcribed over HTTP",
}
MOMENTS = ("dialling", "before ready", "mid utterance", "at its end", "during drain")
FORMS = ("whole", "events")
"""The reply as one body, or as server-sent events."""

SOUND_RATE, FILE_RATE = 8_000, 16_000
NUMBERS = list(range(1, 17))
SETTINGS: dict[str, Any] = {"sidecar_transcript_timeout": 2 * FACTOR}
"""Further settings of the gateways that get the requests."""
TEXT = " ".join(f"n{number}" for number in NUMBERS)
FILE = signal.encode([signal.SignalWord(n, frames=8, gap=20 if n % 4 == 0 else 2) for n in NUMBERS], FILE_RATE)

_HOW: dict[str, dict[str, Any]] = {
    "dropped": {"do": "drop"},
    "dropped, again and again": {"do": "drop", "times": 0},
    "close 1011": {"do": "close", "code": 1011},
    "close 1012": {"do": "close", "code": 1012},
    "close 1000": {"do": "close", "code": 1000},
    "an error": {"do": "error", "code": "backend_error", "message": "failed"},
    "rate_limit": {"do": "error", "code": "rate_limit", "message": "busy", "then_close": 1013},
    "a message larger than the sidecar accepts": {"do": "oversized", "bytes": 2 << 20},
    "upstream sends nothing more": {"do": "mute"},
    "frozen: nothing reaches the sidecar": {"do": "tcp", "then": "stop_writing"},
    "frozen: nothing is accepted from the sidecar": {"do": "tcp", "then": "stop_reading"},
}
_REFUSALS = {"refused by 401": 401, "refused by 429": 429, "refused by 503": 503}
# Faults that look like a normal end; docs/explain/guarantees.md names them.
_CLEAN: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "close 1000": {
        "websocket": (("mid utterance", "during drain"), "some routes end a turn this way"),
        "file": (("at its end", "during drain"), "it is the answer to the sidecar's close when nothing is left"),
    },
    "upstream sends nothing more": {
        "file": (
            ("mid utterance", "at its end", "during drain"),
            "asked to close, upstream closes cleanly with nothing left",
        ),
    },
}
FAULTS = (*_REFUSALS, *_HOW, "a body that ends short")


@dataclass(frozen=True)
class Request:
    """A fault, an upstream API, a moment, and the form of the reply."""

    fault: str
    way: str
    moment: str
    form: str

    def __str__(self) -> str:
        return f"HTTP {self.fault}, {self.way}, {self.moment}, {self.form}"


def fault_of(name: str, way: str, moment: str) -> dict[str, Any] | str:
    """Return the fault for the simulator, or the reason why it cannot occur there."""
    if way == "bridge":
        return _of_the_bridge(name, moment)
    if name == "a body that ends short":
        return "it belongs to the HTTP bridge only"
    if name in _REFUSALS:
        if moment != "dialling":
            return "it happens only while a connection opens"
        return {"do": "refuse", "when": "upgrade", "status": _REFUSALS[name], "body": {"error": "no"}}
    moments, reason = _CLEAN.get(name, {}).get(way, ((), ""))
    if moment in moments:
        return f"it looks like a good end: {reason}"
    how = _HOW[name]
    if moment == "dialling":
        if how["do"] == "drop":
            return {**how, "when": "upgrade"}
        if name == "frozen: nothing reaches the sidecar":
            return {"do": "hang", "when": "upgrade"}
        return "there is no WebSocket connection yet"
    at: dict[str, dict[str, Any]] = {
        "before ready": {"when": "init"},
        "mid utterance": {"when": "audio", "after_ms": 300},
        "at its end": {"when": "close" if way == "file" else "terminal"},
        # In a file, the drain is in the second half, which is sent later.
        "during drain": {"when": "audio", "after_ms": 3000 if way == "file" else 600},
    }
    return {**how, **at[moment]}


def _of_the_bridge(name: str, moment: str) -> dict[str, Any] | str:
    """Return the same for the HTTP bridge. During a drain the request has begun before the fault occurs."""
    # After the header of 44 bytes comes audio.
    broken = {"before ready": 30, "mid utterance": 30_000, "during drain": 30_000}
    if moment == "at its end":
        return "a body ends with its last byte"
    late = {"delay_ms": 300} if moment == "during drain" else {}
    if name in _REFUSALS:
        if moment not in ("dialling", "during drain"):
            return "it happens only while a connection opens"
        return {"do": "refuse", "status": _REFUSALS[name], "body": {"error": "no"}, **late}
    if name.startswith("dropped"):
        how = {"times": _HOW[name].get("times", 1)}
        if moment == "dialling":
            return {"do": "drop", "when": "request", **how}
        return {"do": "profile", "set": {"break_bytes": broken[moment]}, **how, **late}
    if name == "frozen: nothing reaches the sidecar":
        if moment == "dialling":
            return {"do": "hang"}
        slow = {"first_audio_ms": TOO_LATE} if moment == "before ready" else {"pace": 0.05 / FACTOR}
        return {"do": "profile", "set": slow, **late}
    if name == "a body that ends short":
        if moment == "dialling":
            return "there is no body yet"
        size = 44 if moment == "before ready" else broken[moment]
        return {"do": "profile", "set": {"http_format": "wav_exact", "truncate_bytes": size}, **late}
    return "HTTP has no messages and no close frame, and a text is one packet"


async def outcome(world: World, cell: Request, number: int) -> str:
    """Send a request and return its result in a word.

    Raises:
        AssertionError: a promise was broken, or the fault never occurred.
    """
    model = f"slng/simulator/signal:request-{number}"
    given = fault_of(cell.fault, cell.way, cell.moment)
    assert isinstance(given, dict)
    kind = {"websocket": "tts", "bridge": "http", "file": "stt"}[cell.way]
    fault = world.simulator.inject(kind=kind, model=model, **given)
    speech = "websocket" if cell.way == "file" else cell.way
    async with contextlib.AsyncExitStack() as stack:
        url, gateway = world.urls[speech], None
        if cell.moment == "during drain":
            url, gateway = await stack.enter_async_context(world.own_gateway(slng_http_tts=speech))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=20 * FACTOR))
        await stack.enter_async_context(asyncio.timeout(20 * FACTOR))
        asked = _file(http, model, cell, world.simulator, fault) if cell.way == "file" else _text(http, model, cell)
        asking = asyncio.create_task(_Reply(cell, asked).read())
        if gateway is not None:
            await world.simulator.log.until(lambda log: _is_under_way(log.of(kind, model), kind))
            await gateway.drain(8)
        result = await asking
    assert fault.fired, f"the fault never occurred: {result}"
    return result


def _is_under_way(records: list[Record], kind: str) -> bool:
    """Return whether upstream has begun to process a request, which is then drained."""
    if kind == "http":
        return bool(records)
    return any(record.audio_out or record.audio_in for record in records)


def _text(http: httpx.AsyncClient, model: str, cell: Request) -> Any:
    if cell.form == "events":
        events = {"model": model, "input": TEXT, "response_format": "pcm", "stream_format": "sse"}
        return http.stream("POST", "/v1/audio/speech", json={**events, "sample_rate": SOUND_RATE})
    path = f"/v1/bridges/unmute/tts/{model}"
    asked: dict[str, Any] = {"text": TEXT, "config": {"sample_rate": SOUND_RATE}}
    return http.stream("POST", path, json=asked, headers={"Accept": "audio/pcm"})


def _file(http: httpx.AsyncClient, model: str, cell: Request, simulator: Simulator, fault: Fault) -> Any:
    fields = {"model": model, "stream": "true" if cell.form == "events" else "false"}
    mark = "a-mark-of-the-form"
    head = "".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'

    async def upload() -> AsyncIterator[bytes]:
        half = len(FILE) // 4 * 2
        yield head.encode() + wav_header(FILE_RATE, data_size=len(FILE)) + FILE[:half]
        # A fault in the middle of a file occurs before the whole file was sent.
        with contextlib.suppress(TimeoutError):
            if cell.moment == "mid utterance":
                await simulator.until_fired(fault, timeout=5 * FACTOR)
        await asyncio.sleep(0.3)
        yield FILE[half:] + f"\r\n--{mark}--\r\n".encode()

    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    return http.stream("POST", "/v1/audio/transcriptions", content=upload(), headers=headers)


class _Reply:
    """The reply, checked against the promise that it is complete or visibly incomplete."""

    def __init__(self, cell: Request, asked: Any) -> None:
        self._cell = cell
        self._asked = asked
        self._body = bytearray()

    async def read(self) -> str:
        broken = False
        async with contextlib.AsyncExitStack() as stack:
            reply = await stack.enter_async_context(self._asked)
            try:
                async for piece in reply.aiter_raw():
                    self._body += piece
            except (httpx.RemoteProtocolError, httpx.ReadError):
                broken = True
        if reply.status_code != 200:
            assert not broken
            error = json.loads(self._body)["error"]
            assert 400 <= reply.status_code < 600
            return f"{reply.status_code} {error['code']}"
        failed = self._check(broken=broken)
        assert failed == broken
        return "breaks off" if broken else "whole"

    def _check(self, *, broken: bool) -> bool:
        """Check the body against the request, and return whether the body itself says that it is incomplete."""
        if self._cell.form == "whole":
            if self._cell.way == "file":
                assert not broken, "a status, and then no body"
                assert json.loads(self._body)["text"] == TEXT
            else:
                _check_audio(bytes(self._body), whole=not broken)
            return broken
        events = server_sent_events(self._body.decode())
        *deltas, last = events
        failed = "error" in last
        if self._cell.way == "file":
            transcript = "".join(event["delta"] for event in deltas)
            assert transcript == TEXT[: len(transcript)]
            assert failed or (last["type"], last["text"], transcript) == ("transcript.text.done", TEXT, TEXT)
        else:
            _check_audio(b"".join(base64.b64decode(event["audio"]) for event in deltas), whole=not failed)
            assert failed or last == {"type": "speech.audio.done"}
        return failed


def _check_audio(pcm: bytes, *, whole: bool) -> None:
    found = signal.decode(pcm, SOUND_RATE)
    numbers = [word.number for word in found]
    assert numbers == NUMBERS[: len(numbers)]
    assert all(word.whole for word in found[:-1])
    if whole:
        assert numbers == NUMBERS, f"a clean end after {numbers}"
        assert found[-1].whole


def requests() -> list[Request]:
    """Return every fault in every request at every moment at which it can occur."""
    return [
        Request(fault, way, moment, form)
        for way in WAYS
        for fault in FAULTS
        for moment in MOMENTS
        if isinstance(fault_of(fault, way, moment), dict)
        for form in FORMS
    ]


def tables(results: Mapping[Any, str]) -> list[str]:
    """Return the tables with the result of each request."""
    lines: list[str] = []
    for way, title in WAYS.items():
        moments = [moment for moment in MOMENTS if (way, moment) != ("bridge", "at its end")]
        lines += [f"\n## {title}\n", "| Fault | " + " | ".join(moments) + " |", "|---|" + "---|" * len(moments)]
        for fault in FAULTS:
            row = []
            for moment in moments:
                possible = isinstance(fault_of(fault, way, moment), dict)
                both = [results.get(Request(fault, way, moment, form), "?") for form in FORMS] if possible else []
                row.append(" / ".join(dict.fromkeys(both)))
            if any(row):
                lines.append(f"| {fault} | " + " | ".join(row) + " |")
    return lines


def not_applicable() -> list[str]:
    """Return the moments at which faults cannot occur in requests, and why."""
    grouped: dict[str, dict[str, list[str]]] = {}
    for way, title in WAYS.items():
        for fault in FAULTS:
            for moment in MOMENTS:
                if isinstance(reason := fault_of(fault, way, moment), str):
                    grouped.setdefault(f"{title}: {reason}", {}).setdefault(fault, []).append(moment)
    return [
        f"* {reason}: " + "; ".join(f"{fault} ({', '.join(moments)})" for fault, moments in faults.items())
        for reason, faults in grouped.items()
    ]
