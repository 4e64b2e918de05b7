"""Random input for a while: every message is understood or refused by name.

``FUZZ_MINUTES`` is the total time in minutes (default 1). Every run uses new examples; a failure prints its seed, and
``FUZZ_SEED`` starts with that seed.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from audio.test_decoding import damaged_files, decode_or_refuse
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import given as given_
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from pipecat_slng_sidecar.stt_replay_queue import SessionInit, SttReplayQueue
from pipecat_slng_sidecar.tts_replay_queue import TtsReplayQueue, WireContext
from protocol.stt.test_session_any_order import AnyTranscription
from protocol.tts.test_session_any_order import AnyExtendedSpeech
from protocol.tts.test_session_plain_any_order import AnySpeech
from slng_sidecar.audio.sniffing import SniffingReader
from slng_sidecar.audio.wav_reader import UnreadableAudio, WavReader
from slng_sidecar.config import Settings, load_settings
from slng_sidecar.keys import ConfigError, Secrets
from slng_sidecar.protocol.commands import SessionMachine
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.messages import parse_object, parse_stt, parse_tts
from slng_sidecar.protocol.stt.dialects import ExtendedStt, PlainStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine
from slng_sidecar.protocol.tts.dialects import ExtendedTts, PlainTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from support.conversation import Conversation, json_values, odd_client_messages, odd_upstream_messages, upstream_close

MINUTES = float(os.environ.get("FUZZ_MINUTES", "1"))
FIRST_SEED = os.environ.get("FUZZ_SEED")
TESTS = 14
SECONDS = 60 * MINUTES / TESTS
EXAMPLES = settings(
    max_examples=100,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)

pytestmark = [pytest.mark.fuzz, pytest.mark.timeout(120 * MINUTES + 120)]


def rounds() -> Iterator[int]:
    """Yield seeds until this test's share of the time is used up, and at least one."""
    until = time.monotonic() + SECONDS
    source = random.SystemRandom()
    number = int(FIRST_SEED) if FIRST_SEED else source.getrandbits(64)
    while True:
        yield number
        if time.monotonic() >= until:
            return
        number = source.getrandbits(64)


def fuzzed(*strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[[], None]]:
    """Turn a function of such arguments into a test."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            for number in rounds():
                print(f"FUZZ_SEED={number}")
                seed(number)(EXAMPLES(given_(*strategies)(check)))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


# Messages that anybody may send

CLIENT_MESSAGES: dict[str, dict[str, Any]] = {
    "init": {
        "config": {"sample_rate": 16_000, "encoding": "linear16", "enable_partials": True, "language": "en"},
        "voice": "v",
        "deliver": "as-is",
        "standby": True,
    },
    "text": {"text": "one", "context_id": "a", "flush": True},
    "flush": {"context_id": "a"},
    "clear": {"context_id": "a"},
    "cancel": {},
    "finalize": {"id": "f"},
    "update": {"id": "u", "voice": "w", "model": "slng/deepgram/aura:2-en", "config": {"language": "de", "speed": 1.5}},
    "keepalive": {},
    "close": {},
    "stop": {},
}
_WORD = {"word": "one", "start": 0.1, "end": 0.4}
UPSTREAM_MESSAGES: dict[str, dict[str, Any]] = {
    "ready": {"session_id": "s", "slng_request_id": "r"},
    "partial_transcript": {"transcript": "one", "confidence": 0.9},
    "final_transcript": {"transcript": "one", "confidence": 0.9, "from_finalize": True, "words": [_WORD, _WORD]},
    "Results": {
        "channel": {"alternatives": [{"transcript": "one", "confidence": 0.9, "words": [_WORD]}]},
        "is_final": True,
        "from_finalize": True,
    },
    "audio_end": {"duration": 1.5},
    "flushed": {},
    "cleared": {},
    "audio_chunk": {"data": "QUJD"},
    "event": {"data": {"event_type": "final"}},
    "error": {"data": {"code": "rate_limit", "message": "slow"}, "status_code": 429},
}


def almost_valid(messages: dict[str, dict[str, Any]]) -> st.SearchStrategy[str]:
    """Return a strategy for valid messages in which some fields are missing or have another type."""

    @st.composite
    def message(draw: st.DrawFn) -> str:
        kind = draw(st.sampled_from(sorted(messages)))
        found = _with_wrong_fields(draw, messages[kind])
        found["type"] = draw(st.just(kind) | st.just(kind.upper()) | json_values)
        return json.dumps(found)

    return message()


def _with_wrong_fields(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict):
        found = {}
        for name, inner in value.items():
            what = draw(st.integers(0, 9))
            if what == 0:
                found[name] = draw(json_values)
            elif what != 1:
                found[name] = _with_wrong_fields(draw, inner)
        return found
    if isinstance(value, list):
        return [
            draw(json_values) if draw(st.integers(0, 9)) == 0 else _with_wrong_fields(draw, inner) for inner in value
        ]
    return draw(json_values) if draw(st.integers(0, 9)) == 0 else value


any_json = json_values.map(json.dumps)
from_client = st.one_of(
    almost_valid(CLIENT_MESSAGES),
    almost_valid(CLIENT_MESSAGES),
    odd_client_messages(),
    any_json,
    st.text(),
    st.binary(max_size=700),
)
from_upstream = st.one_of(
    almost_valid(UPSTREAM_MESSAGES),
    almost_valid(UPSTREAM_MESSAGES),
    odd_upstream_messages(),
    any_json,
    st.text(),
    st.binary(max_size=700),
)
errors = st.sampled_from(
    [
        upstream_close(),
        upstream_close(1000),
        upstream_close(1008),
        GatewayError("rate_limit", "busy", status=429),
        GatewayError("config_error", "no such voice", status=400),
        GatewayError("not_ready", "busy", status=503),
    ]
)
events = st.one_of(
    st.tuples(st.just("client"), from_client),
    st.tuples(st.just("upstream"), from_upstream, st.integers(0, 9)),
    st.tuples(st.just("ready"), st.integers(0, 9)),
    st.tuples(st.just("lost"), errors, st.integers(0, 9)),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.01, 0.1, 0.5, 2.0, 10.0, 70.0])),
    st.tuples(st.just("drain"), st.sampled_from([0.0, 1.0, 30.0])),
)
INITS = {
    "stt": {"type": "init", "config": {"sample_rate": 16_000, "encoding": "linear16", "enable_partials": True}},
    "tts": {"type": "init", "voice": "v", "config": {"sample_rate": 16_000, "encoding": "linear16"}},
}


def follow(machine: SessionMachine, init: dict[str, Any] | None, steps: list[tuple[Any, ...]]) -> None:
    """Run a machine through events. ``Conversation`` checks that each of its commands can be carried out."""
    talk = Conversation(machine)
    if init is not None:
        talk.client(init)
    drained = False
    for what, *rest in steps:
        match what:
            case "client":
                talk.client(rest[0])
            case "wait":
                talk.wait(rest[0])
            case "drain" if not drained:
                drained = True
                talk.drain(rest[0])
            case "ready" if waiting := [number for number, ready in talk.open.items() if not ready]:
                talk.ready(connection=waiting[rest[0] % len(waiting)])
            case "upstream" if standing := [number for number, ready in talk.open.items() if ready]:
                talk.upstream(rest[0], connection=standing[rest[1] % len(standing)])
            case "lost" if talk.open:
                talk.lost(rest[0], connection=list(talk.open)[rest[1] % len(talk.open)])
        deadline = machine.deadline
        assert deadline is None or math.isfinite(deadline)
        repr(machine)
    if not talk.over:
        talk.client_leaves()
        assert not talk.open, "a connection was left behind"
    assert machine.deadline is None


def machines(kind: str, dialect: str) -> SessionMachine:
    if kind == "stt":
        options = SttOptions(jitter=lambda: 0.5)
        return SttMachine(options, ExtendedStt("1", "1") if dialect == "extended" else PlainStt())
    tts = TtsOptions(model="slng/deepgram/aura:2-en", jitter=lambda: 0.5)
    return TtsMachine(tts, ExtendedTts("1", "1") if dialect == "extended" else PlainTts("upstream"))


@pytest.mark.parametrize("dialect", ["extended", "plain"])
@pytest.mark.parametrize("kind", ["stt", "tts"])
def test_a_session_handles_any_message_of_either_side(kind: str, dialect: str) -> None:
    def check(begun: bool, steps: list[tuple[Any, ...]]) -> None:
        follow(machines(kind, dialect), INITS[kind] if begun else None, steps)

    fuzzed(st.booleans() | st.just(True), st.lists(events, max_size=40))(check)()


@pytest.mark.parametrize("machine", [AnyTranscription, AnySpeech, AnyExtendedSpeech])
def test_the_promises_hold_in_any_order_of_events(machine: type[RuleBasedStateMachine]) -> None:
    for number in rounds():
        print(f"FUZZ_SEED={number}")
        run_state_machine_as_test(seed(number)(machine), settings=settings(EXAMPLES, stateful_step_count=60))


@fuzzed(from_upstream | from_client)
def test_messages_are_read_or_refused_by_name(data: str | bytes) -> None:
    text = data if isinstance(data, str) else data.decode(errors="replace")
    for parse in (parse_object, parse_stt, parse_tts):
        with contextlib.suppress(GatewayError):
            parse(text)


# Settings

values = st.one_of(
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["true", "0", "1e400", "nan", "-1", "200 MB", "a=b,c=d", "127.0.0.1", "::1", "eu-north", "https://x"]
    ),
)
names = st.sampled_from(sorted(Settings.model_fields))
MARK = "~a key~"


@fuzzed(st.dictionaries(names, values, max_size=8))
def test_settings_from_the_environment_are_accepted_or_refused_by_name(given: dict[str, str]) -> None:
    usable = {
        name.upper(): value
        for name, value in given.items()
        if "\0" not in value
        and not any(0xD800 <= ord(each) < 0xE000 for each in value)  # no environment variable can hold them
    }
    with mock.patch.dict(os.environ, usable, clear=True):
        check_settings()
    # A refusal may contain the text of a random key by chance, so only a marked key proves that a key was shown.
    keys = {name: f"{value}{MARK}" for name, value in usable.items() if name.endswith(("_KEY", "_TOKEN"))}
    with mock.patch.dict(os.environ, usable | keys, clear=True):
        check_settings()


@fuzzed(
    st.dictionaries(names | st.text(min_size=1, max_size=5), values | st.integers() | st.booleans(), max_size=8),
    st.text(max_size=30),
)
def test_settings_from_a_file_are_accepted_or_refused_by_name(given: dict[str, Any], rest: str) -> None:
    lines = [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in given.items()]
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {}, clear=True):
        file = Path(folder, "sidecar.toml")
        file.write_bytes("\n".join([*lines, rest]).encode(errors="surrogatepass"))
        check_settings(config_file=file)
        dotenv = Path(folder, ".env")
        dotenv.write_bytes("\n".join([*(f"{k.upper()}={v}" for k, v in given.items()), rest]).encode(errors="replace"))
        check_settings(env_file=dotenv)


def check_settings(**files: Path) -> None:
    try:
        found, secrets = load_settings(**files)
    except ConfigError as refusal:
        shown = str(refusal)
        assert shown
        assert MARK not in shown, "a key is shown"
    else:
        assert isinstance(found, Settings)
        assert isinstance(secrets, Secrets)
        assert found.gateway


# Audio

chunks = st.builds(
    lambda name, size, data: name + size.to_bytes(4, "little") + data,
    st.sampled_from([b"fmt ", b"data", b"ds64", b"LIST", b"fact", b"junk"]) | st.binary(min_size=4, max_size=4),
    st.integers(0, 64) | st.integers(0, 0xFFFF_FFFF),
    st.binary(max_size=64),
)
fmt = st.builds(
    lambda tag, channels, rate, bits: (
        b"fmt \x10\0\0\0"
        + b"".join(value.to_bytes(size, "little") for value, size in ((tag, 2), (channels, 2), (rate, 4), (rate, 4)))
        + (channels * bits // 8 % 65_536).to_bytes(2, "little")
        + bits.to_bytes(2, "little")
    ),
    st.sampled_from([1, 3, 6, 7, 0xFFFE]) | st.integers(0, 0xFFFF),
    st.integers(0, 3) | st.integers(0, 0xFFFF),
    st.sampled_from([8000, 24_000, 0, 0xFFFF_FFFF]),
    st.sampled_from([8, 16, 24, 32, 64]) | st.integers(0, 0xFFFF),
)
wav_files = st.builds(
    lambda riff, size, pieces: riff + size.to_bytes(4, "little") + b"WAVE" + b"".join(pieces),
    st.sampled_from([b"RIFF", b"RF64"]),
    st.integers(0, 0xFFFF_FFFF),
    st.lists(fmt | chunks, max_size=5),
)


@fuzzed(wav_files | st.binary(max_size=200), st.lists(st.integers(1, 70), max_size=8))
def test_audio_is_read_or_refused_by_name(data: bytes, cuts: list[int]) -> None:
    for reader in (WavReader(), SniffingReader("audio/wav"), SniffingReader()):
        try:
            at, samples = 0, b""
            for cut in [*cuts, len(data)]:
                samples += reader.feed(data[at : at + cut])
                at += cut
            samples += reader.end() or b""
        except UnreadableAudio as refusal:
            assert str(refusal)  # noqa: PT017 # it may be read as well
        else:
            assert len(samples) % 2 == 0
            assert reader.sample_rate > 0


@fuzzed(damaged_files)
def test_damaged_files_are_decoded_or_refused_by_name(damaged: tuple[str, list[tuple[int, int]], int]) -> None:
    decode_or_refuse(*damaged)


# The replay queues of the plugin, with any sequence of events

SESSION_INIT = SessionInit("m", {"type": "init"})
stt_steps = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 400)),
    st.tuples(st.just("finalize"), st.sampled_from("abc")),
    st.tuples(st.just("mark_covered"), st.floats(0, 1e6) | st.integers(0, 1 << 70)),
    st.tuples(st.just("mark_answered"), st.sampled_from("abcd")),
    st.tuples(
        st.sampled_from(
            [*["next_message"] * 3, "begin_connection", "end_connection", "update", "discard_all", "request_close"]
        ),
        st.none(),
    ),
)


@fuzzed(st.lists(stt_steps, max_size=60))
def test_the_stt_replay_queue_handles_any_sequence(steps: list[tuple[str, Any]]) -> None:
    queue = SttReplayQueue(SESSION_INIT, 8000, keep_seconds=0.05)
    for step, argument in steps:
        match step:
            case "append":
                queue.append(bytes(2 * argument))
            case "next_message":
                assert isinstance(queue.next_message(), str | bytes | None)
            case "begin_connection":
                assert queue.begin_connection() == ("m", {"type": "init"})
            case "update":
                queue.update({"type": "update"}, SESSION_INIT)
            case "end_connection" | "discard_all" | "request_close":
                getattr(queue, step)()
            case _:
                getattr(queue, step)(argument)
        assert 0 <= queue.kept_ms <= 50
        assert queue.pop_lost_ms() >= 0


tts_steps = st.tuples(
    st.sampled_from(
        [
            "begin",
            "add_text",
            "flush",
            "clear",
            "remove",
            "mark_audio",
            "pop_unrepeatable",
            "discard_all",
            "next_message",
            "next_message",
            "begin_connection",
            "update",
            "request_close",
        ]
    ),
    st.integers(0, 4),
)


@fuzzed(st.lists(tts_steps, max_size=60))
def test_the_tts_replay_queue_handles_any_sequence(steps: list[tuple[str, int]]) -> None:
    queue = TtsReplayQueue(SESSION_INIT)
    begun: list[WireContext] = []
    for step, number in steps:
        context = begun[number % len(begun)] if begun else None
        match step:
            case "begin":
                begun.append(queue.begin("abcde"[number]))
            case "pop_unrepeatable":
                queue.pop_unrepeatable()
            case "discard_all":
                queue.discard_all()
            case "next_message":
                message = queue.next_message()
                assert message is None or json.loads(message)["type"]
            case "begin_connection":
                assert queue.begin_connection() == ("m", {"type": "init"})
            case "update":
                queue.update({"type": "update"}, SESSION_INIT)
            case "request_close":
                queue.request_close()
            case "add_text" if context is not None:
                queue.add_text(context, "one")
            case _ if context is not None:
                getattr(queue, step)(context)
        assert queue.waiting_characters >= 0
