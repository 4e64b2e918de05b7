"""docs/reference/asyncapi.yaml describes the WebSockets completely, and as they are on the wire."""

from __future__ import annotations

import ast
import copy
import inspect
from types import ModuleType
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft7Validator
from slng_sidecar.engines import signal
from slng_sidecar.protocol.stt import dialects as stt_dialects
from slng_sidecar.protocol.stt import session as transcripts
from slng_sidecar.protocol.tts import dialects as tts_dialects
from slng_sidecar.protocol.tts import session as contexts
from slng_sidecar.simulator import SimulatorOptions
from support.paths import ROOT
from support.running import STT_INIT, TTS_INIT, Talk, gateway_and_simulator, talking

DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs/reference/asyncapi.yaml").read_text())
# Each operation, with the kind of session and whether it is extended.
OPERATIONS = {
    "receiveSttPlain": ("stt", False),
    "sendSttPlain": ("stt", False),
    "receiveSttExtended": ("stt", True),
    "sendSttExtended": ("stt", True),
    "receiveTtsPlain": ("tts", False),
    "sendTtsPlain": ("tts", False),
    "receiveTtsExtended": ("tts", True),
    "sendTtsExtended": ("tts", True),
}
MODEL = "slng/simulator/signal:1"
BINARY = {"audio", "sound"}


def resolved(reference: str) -> Any:
    """Return the target of a ``$ref`` within the document. If the target is a ``$ref`` itself, follow it too."""
    assert reference.startswith("#/"), reference
    found: Any = DOCUMENT
    for step in reference[2:].split("/"):
        found = found[step]
    return resolved(found["$ref"]) if isinstance(found, dict) and "$ref" in found else found


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def messages_of(kind: str, action: str, *, extended: bool) -> dict[str, Any]:
    """Return the messages of one direction of one dialect by their types."""
    (name,) = (name for name, which in OPERATIONS.items()
               if which == (kind, extended) and DOCUMENT["operations"][name]["action"] == action)  # fmt: skip
    messages = [resolved(each["$ref"]) for each in DOCUMENT["operations"][name]["messages"]]
    found = {message["name"]: message for message in messages}
    assert len(found) == len(messages), "two messages have the same name"
    return found


def closed(schema: Any) -> Any:
    """Return a schema that accepts only the fields that it names, unless it says otherwise.

    Clients ignore unknown fields, so the published schemas are open. The sidecar itself must send only fields that they
    name.
    """
    schema = resolved(schema["$ref"]) if isinstance(schema, dict) and "$ref" in schema else schema
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: closed(value) for name, value in schema.items()}
    if "properties" in schema and "allOf" not in schema:
        made.setdefault("additionalProperties", False)
    return made


# The messages that the code can send and accept


def types_sent_by(module: ModuleType, dialect: str) -> set[str]:
    """Return the message types that a dialect's code contains."""
    (cls,) = (node for node in ast.parse(inspect.getsource(module)).body
              if isinstance(node, ast.ClassDef) and node.name == dialect)  # fmt: skip
    return {
        str(value.value)
        for node in ast.walk(cls)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "type" and isinstance(value, ast.Constant)
    }


def types_accepted_by(module: ModuleType, function: str, *, extended: bool) -> set[str]:
    """Return the types that a session accepts from its client. Types that it refuses by name do not count."""
    (code,) = (node for node in ast.walk(ast.parse(inspect.getsource(module)))
               if isinstance(node, ast.FunctionDef) and node.name == function)  # fmt: skip
    found: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == "kind":
            found |= {str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)}
        if (
            isinstance(node, ast.match_case)
            and not isinstance(node.body[0], ast.Raise)
            and (extended or not node.guard)
        ):
            found |= {str(each.value) for each in ast.walk(node.pattern) if isinstance(each, ast.Constant)}
    return found


# A dialect's code does not contain types that are passed on unchanged or come from a setting.
PASSED = {
    "PlainStt": {"ready", "partial_transcript", "final_transcript", "error", "other"},
    "ExtendedStt": {"ready", "partial_transcript", "final_transcript", "error", "other"},
    "PlainTts": {"ready", "sound", "error", "other", *get_args(tts_dialects.TerminalForm)} - {"upstream"},
    "ExtendedTts": {"ready", "sound", "error"},
}


@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
@pytest.mark.parametrize("kind", ["stt", "tts"])
def test_the_document_has_every_message_of_the_code_and_no_other(kind: str, extended: bool) -> None:
    dialect = ("Extended" if extended else "Plain") + kind.capitalize()
    sent = types_sent_by(stt_dialects if kind == "stt" else tts_dialects, dialect) | PASSED[dialect]
    assert messages_of(kind, "send", extended=extended).keys() == sent
    module = transcripts if kind == "stt" else contexts
    taken = types_accepted_by(module, "_message", extended=extended) | ({"audio"} if kind == "stt" else set())
    assert {"init", "close", "keepalive"} < taken
    assert messages_of(kind, "receive", extended=extended).keys() == taken


def test_every_reference_resolves_and_every_component_is_used() -> None:
    assert DOCUMENT["asyncapi"] == "3.0.0"
    found = references(DOCUMENT)
    for reference in found:
        resolved(reference)
    for place, parts in DOCUMENT["components"].items():
        unused = [name for name in parts if f"#/components/{place}/{name}" not in found]
        assert not unused, (place, unused)
    assert OPERATIONS.keys() == DOCUMENT["operations"].keys()
    for channel, content in DOCUMENT["channels"].items():
        listed = [f"#/channels/{channel}/messages/{name}" for name in content["messages"]]
        assert set(listed) <= set(found), channel


def test_every_schema_is_valid_and_names_the_type_of_its_message() -> None:
    for name in DOCUMENT["components"]["schemas"]:
        Draft7Validator.check_schema(closed({"$ref": f"#/components/schemas/{name}"}))
    for message in DOCUMENT["components"]["messages"].values():
        schema = closed(message["payload"])
        if message["name"] in BINARY:
            assert schema["format"] == "binary"
        elif message["name"] != "other":
            for each in schema.get("oneOf", [schema]):
                assert each["properties"]["type"] == {"const": message["name"]}
                assert "type" in each["required"]


# The messages on the wire


class Checked:
    """A session that checks every message in either direction against the document.

    Attributes:
        sent: the types of the messages that the client sent.
    """

    def __init__(self, talk: Talk, kind: str, *, extended: bool) -> None:
        self.talk = talk
        self.sent: set[str] = set()
        self._up = messages_of(kind, "receive", extended=extended)
        self._down = messages_of(kind, "send", extended=extended)

    async def send(self, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            self.sent.add(_check(message, self._up))
        await self.talk.send(*messages)

    def check(self) -> set[str]:
        """Check the received messages and return their types, with ``sound`` for binary messages."""
        came = {_check(message, self._down) for message in self.talk.messages}
        if self.talk.audio:
            assert "sound" in self._down
            came.add("sound")
        return came


def _check(message: dict[str, Any] | bytes, known: dict[str, Any]) -> str:
    """Check a message against the schema of its type and return the type."""
    if isinstance(message, bytes):
        (name,) = known.keys() & BINARY
        return name
    name = message["type"] if message["type"] in known else "other"
    assert name in known, f"not in the document: {message}"
    errors = [error.message for error in Draft7Validator(closed(known[name]["payload"])).iter_errors(message)]
    assert not errors, (message, errors)
    return name


def text(name: str, words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "context_id": name, "text": words}, {"type": "flush", "context_id": name}]


def speech(first: int, last: int) -> bytes:
    return signal.encode([signal.SignalWord(n, gap=20 if n == last else 0) for n in range(first, last + 1)])


async def test_an_extended_stt_session_matches_the_document() -> None:
    options = SimulatorOptions.fast(upgrade_ms=20, utterance_end=True)
    async with (
        gateway_and_simulator(options) as (url, simulator),
        talking(url, "stt", MODEL, subprotocol="slng-sidecar.v1") as talk,
    ):
        session = Checked(talk, "stt", extended=True)
        await session.send(STT_INIT, signal.encode([1, 2, 3, 4]))
        await talk.until("partial_transcript")
        await session.send({"type": "finalize", "id": "f1"}, {"type": "keepalive"})
        await talk.until("finalized")
        await session.send({"type": "finalize"})  # there was no speech since the last answer
        assert (await talk.until("finalized"))["finalize_id"] is None
        await session.send(
            {"type": "update", "id": "u1", "config": {"language": "de", "enable_partials": True, "encoding": "opus"}},
            {"type": "update", "config": {"language": "fr"}}, bytes(16_000),
        )  # fmt: skip
        assert [(await talk.until("updated"))["id"] for _ in range(2)] == ["u1", None]
        simulator.inject(do="profile", kind="stt", when="now", set={"confidence": 0.2})
        await session.send(speech(7, 9), {"type": "finalize", "id": "f2"})
        assert (await talk.until("finalized"))["outcome"] == "dropped"
        simulator.inject(do="drop", kind="stt", when="now")
        await talk.until("status")
        await session.send(speech(10, 12))
        assert (await talk.until("status"))["state"] == "connected"
        simulator.inject(do="error", kind="stt", when="now", code="pronunciation_not_found", message="no")
        await talk.until("error")
        await session.send({"type": "finalize", "id": "f3"})
        await talk.until("finalized")
        await session.send(STT_INIT)
        await talk.until("error")
        await session.send({"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert session.check() == messages_of("stt", "send", extended=True).keys()
        assert session.sent == messages_of("stt", "receive", extended=True).keys() - {"stop"}


async def test_a_plain_stt_session_matches_the_document() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(utterance_end=True)) as (url, simulator),
        talking(url, "stt", MODEL) as talk,
    ):
        session = Checked(talk, "stt", extended=False)
        await session.send(STT_INIT, signal.encode([1, 2, 3, 4]))
        await talk.until("partial_transcript")
        await session.send({"type": "finalize"})
        await talk.until("final_transcript")
        simulator.inject(do="drop", kind="stt", when="now")
        await session.send(speech(7, 9), {"type": "finalize"}, {"type": "keepalive"})
        await talk.until("final_transcript")
        await session.send(STT_INIT)
        await talk.until("error")
        await session.send({"type": "stop"})
        assert await talk.until_closed() == (1000, "")
        assert session.check() == messages_of("stt", "send", extended=False).keys()
        assert session.sent == messages_of("stt", "receive", extended=False).keys() - {"close"}


async def test_an_extended_tts_session_matches_the_document() -> None:
    async with (
        gateway_and_simulator(SimulatorOptions.fast(pace=10)) as (url, simulator),
        talking(url, "tts", MODEL, subprotocol="slng-sidecar.v1") as talk,
    ):
        session = Checked(talk, "tts", extended=True)
        simulator.inject(do="drop", kind="tts", when="audio", after_ms=100)
        await session.send(TTS_INIT, *text("a", "n1 n2 n3"), *text("b", "n4"))
        ends = [(await talk.until("audio_end"))["reason"] for _ in range(2)]
        assert ends == ["failed", "completed"]
        await session.send({"type": "update", "id": "u", "voice": "other", "config": {"sample_rate": 8000}})
        await session.send({"type": "update"})
        assert [(await talk.until("updated"))["id"] for _ in range(2)] == ["u", None]
        await session.send(*text("c", "n5 " * 40), {"type": "clear", "context_id": "c"}, {"type": "clear"})
        assert (await talk.until("audio_end"))["reason"] == "cleared"
        assert ["context_id" in await talk.until("cleared") for _ in range(2)] == [True, False]
        await session.send(*text("d", "n6 " * 40), {"type": "cancel"}, {"type": "keepalive"}, *text("e", "n7"))
        while (await talk.until("audio_end"))["context_id"] != "e":
            pass
        await session.send({"type": "text", "context_id": "f", "text": "n8" * 6000})
        assert (await talk.until("error"))["context_id"] == "f"
        await session.send(TTS_INIT, {"type": "close"})
        assert await talk.until_closed() == (1000, "")
        assert session.check() == messages_of("tts", "send", extended=True).keys()
        assert session.sent == messages_of("tts", "receive", extended=True).keys() - {"stop"}


async def test_a_plain_tts_session_matches_the_document() -> None:
    options = SimulatorOptions.fast(segments=True, terminal="flushed")
    async with gateway_and_simulator(options) as (url, simulator), talking(url, "tts", MODEL) as talk:
        session = Checked(talk, "tts", extended=False)
        await session.send(TTS_INIT, {"type": "text", "text": "n1 n2"}, {"type": "flush"})
        await talk.until("flushed")
        simulator.inject(do="profile", kind="tts", when="now", set={"terminal": "audio_end", "pace": 10})
        await session.send({"type": "text", "text": "n3", "flush": True}, {"type": "keepalive"})
        await talk.until("audio_end")
        await session.send({"type": "text", "text": "n4 " * 40, "flush": True}, {"type": "clear"}, {"type": "cancel"})
        await talk.until("cleared")
        simulator.inject(do="error", kind="tts", when="audio", code="pronunciation_not_found", message="no")
        await session.send({"type": "text", "text": "n5", "flush": True})
        await talk.until("error")
        await session.send({"type": "stop"})
        assert await talk.until_closed() == (1000, "")
        assert session.check() == messages_of("tts", "send", extended=False).keys()
        assert session.sent == messages_of("tts", "receive", extended=False).keys() - {"close"}


@pytest.mark.parametrize("kind", ["stt", "tts"])
async def test_a_refused_session_ends_as_the_document_says(kind: str) -> None:
    async with (
        gateway_and_simulator() as (url, simulator),
        talking(url, kind, MODEL, subprotocol="slng-sidecar.v1") as talk,
    ):
        session = Checked(talk, kind, extended=True)
        refusal = {"status": 401, "body": {"error": "Unauthorized"}, "headers": {"X-Slng-Auth-Source": "client_key"}}
        simulator.inject(do="refuse", kind=kind, times=0, **refusal)
        await session.send(STT_INIT if kind == "stt" else TTS_INIT)
        assert (await talk.until_closed())[0] == 1008
        assert session.check() == {"error"}
        assert talk.messages[-1]["upstream"] == {"status": 401, "auth_source": "client_key"}


def test_a_wrong_field_is_detected() -> None:
    known = messages_of("stt", "send", extended=True)
    right = {"type": "finalized", "finalize_id": "f", "outcome": "final", "covered_ms": 120}
    assert _check(right, known) == "finalized"
    wrong = copy.deepcopy(right)
    wrong["covered"] = wrong.pop("covered_ms")
    with pytest.raises(AssertionError):
        _check(wrong, known)
    with pytest.raises(AssertionError):
        _check({**right, "more": 1}, known)
