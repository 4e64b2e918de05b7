"""Extended TTS sessions in any order of events: the promises that hold whatever client and upstream do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.tts.dialects import ExtendedTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from support.conversation import Conversation, Step, odd_client_messages, odd_upstream_messages, upstream_close
from support.extended_tts import AUDIO_END, BUSY, CLEARED, INIT, NO_SUCH_VOICE

AURA, SONIOX = "slng/deepgram/aura:2-en", "soniox/tts-rt:v1"


@dataclass
class Listener:
    """An extended client that checks every message against the promises.

    Attributes:
        streaming: the context whose audio may come now.
        ended: the contexts that ended, and for which reason.
        audio: the audio of each context.
        clears, updates: those without an answer so far.
    """

    streaming: str | None = None
    ended: dict[str, str] = field(default_factory=dict)
    audio: dict[str, bytes] = field(default_factory=dict)
    clears: Counter[str | None] = field(default_factory=Counter)
    updates: set[str] = field(default_factory=set)

    def receive(self, steps: list[Step]) -> None:
        for what in steps:
            if what[0] == "down":
                self._check(what[1])

    def _check(self, message: dict[str, Any] | bytes) -> None:
        if isinstance(message, bytes):
            assert self.streaming is not None, "audio came between contexts"
            self.audio[self.streaming] += message
            return
        match message["type"]:
            case "audio_start":
                assert self.streaming is None, "a context began within the audio of another one"
                self.streaming = message["context_id"]
                assert self.streaming not in self.ended
                assert self.streaming not in self.audio, "a context began twice"
                self.audio[self.streaming] = b""
            case "audio_end":
                name = message["context_id"]
                assert name not in self.ended, "a context ended twice"
                self.ended[name] = message["reason"]
                assert message["duration_ms"] == round(len(self.audio.get(name, b"")) / 32)
                assert ("first_audio_ms" in message) == (name in self.audio)
                if name == self.streaming:
                    self.streaming = None
                else:
                    assert name not in self.audio
            case "cleared":
                name = message.get("context_id")
                assert self.clears[name], "cleared was sent without a clear"
                self.clears[name] -= 1
            case "updated":
                assert message["id"] in self.updates, "an update was answered that was not sent, or answered twice"
                self.updates.remove(message["id"])
            case kind:
                assert kind in ("ready", "status")


class AnyExtendedSpeech(RuleBasedStateMachine):
    """Both sides do anything. ``Conversation`` checks each command, and ``Listener`` each message to the client."""

    @initialize(flush=st.sampled_from(["standalone", "inline"]), model=st.sampled_from([AURA, SONIOX]))
    def start(self, flush: Any, model: str) -> None:
        options = TtsOptions(model=model, flush=flush, rotate_seconds=1500, jitter=lambda: 0.5)
        self.talk = Conversation(TtsMachine(options, ExtendedTts("1", "1")))
        self.listener = Listener()
        self.names: set[str] = set()
        self.updates = 0
        self.closing = False
        self.follow(self.talk.client(INIT))

    def follow(self, steps: list[Step]) -> None:
        self.listener.receive(steps)
        if self.talk.over:
            assert not self.talk.open, "a connection was left behind"

    @precondition(lambda self: not (self.talk.over or self.closing))
    @rule(name=st.sampled_from("abcde"), words=st.sampled_from(["one", " ", ""]), flush=st.booleans())
    def text(self, name: str, words: str, flush: bool) -> None:
        if words or flush:
            self.names.add(name)
        self.follow(self.talk.client({"type": "text", "context_id": name, "text": words, "flush": flush}))

    @precondition(lambda self: not (self.talk.over or self.closing))
    @rule(name=st.sampled_from("abcde"))
    def flush(self, name: str) -> None:
        self.names.add(name)
        self.follow(self.talk.client({"type": "flush", "context_id": name}))

    @precondition(lambda self: not (self.talk.over or self.closing))
    @rule(name=st.sampled_from([*"abcde", None]))
    def clear(self, name: str | None) -> None:
        self.listener.clears[name] += 1
        self.follow(self.talk.client({"type": "clear", **({"context_id": name} if name else {})}))
        assert not self.listener.clears[name]

    @precondition(lambda self: not (self.talk.over or self.closing))
    @rule(
        fields=st.fixed_dictionaries(
            {},
            optional={
                "voice": st.sampled_from(["v", "w", 7]),
                "model": st.sampled_from([AURA, SONIOX, "x"]),
                "config": st.sampled_from([{"speed": 1}, {"encoding": "mulaw"}, None, 3]),
            },
        )
    )
    def update(self, fields: dict[str, Any]) -> None:
        self.updates += 1
        self.listener.updates.add(str(self.updates))
        self.follow(self.talk.client({"type": "update", "id": str(self.updates), **fields}))

    @precondition(lambda self: not (self.talk.over or self.closing))
    @rule(message=odd_client_messages("close", "stop", "init", "update", "clear", "flush", "text") | st.just(b"binary"))
    def client(self, message: Any) -> None:
        self.follow(self.talk.client(message))

    @precondition(lambda self: not self.talk.over and len(self.talk.inits) > 2)
    @rule(message=st.sampled_from(["close", "stop"]))
    def close(self, message: str) -> None:
        self.closing = True
        self.follow(self.talk.client({"type": message}))

    def some(self, data: st.DataObject, *, ready: bool) -> int | None:
        numbers = [number for number, is_ready in self.talk.open.items() if is_ready == ready]
        return data.draw(st.sampled_from(numbers)) if numbers else None

    @rule(data=st.data())
    def ready(self, data: st.DataObject) -> None:
        if (number := self.some(data, ready=False)) is not None:
            self.follow(self.talk.ready(connection=number))

    @rule(
        data=st.data(),
        message=st.sampled_from([bytes(32), AUDIO_END, {"type": "flushed"}, CLEARED, {"type": "error"}])
        | odd_upstream_messages(),
    )
    def upstream(self, data: st.DataObject, message: Any) -> None:
        if (number := self.some(data, ready=True)) is not None:
            self.follow(self.talk.upstream(message, connection=number))

    @rule(
        data=st.data(),
        ready=st.booleans(),
        error=st.sampled_from([BUSY, NO_SUCH_VOICE, upstream_close(), upstream_close(1000)]),
    )
    def lost(self, data: st.DataObject, ready: bool, error: GatewayError) -> None:
        if (number := self.some(data, ready=ready)) is not None:
            self.follow(self.talk.lost(error, connection=number))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 1.0, 5.0, 15.0, 100.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    @invariant()
    def all_has_ended_in_the_end(self) -> None:
        if hasattr(self, "talk") and self.talk.over:
            assert self.talk.machine.deadline is None
            assert not self.listener.updates
            assert self.listener.streaming is None
            assert self.listener.ended.keys() <= self.names
            assert self.listener.audio.keys() <= self.listener.ended.keys()


TestAnyExtendedSpeech = AnyExtendedSpeech.TestCase
TestAnyExtendedSpeech.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def word(name: str, number: int) -> bytes:
    """Return the audio of a context's text: a millisecond."""
    return f"{name}/{number};".encode().ljust(32, b".")


@dataclass
class Provider:
    """A well-behaved upstream connection: it speaks each text and acknowledges a clear."""

    voice: str
    one_turn: bool
    to_speak: list[tuple[str, int]] = field(default_factory=list)
    context: str | None = None  # the context whose turn is unfinished
    flushed: bool = False
    turns: int = 0
    clearing: bool = False
    late: bool = False  # the turn ended before the clear arrived, which is acknowledged all the same

    def receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "clear":
            self.clearing = True
            return
        assert not self.clearing, "something was sent before the clear was acknowledged"
        if message["type"] == "text":
            assert not self.flushed, "a turn began before the one before it had ended"
            assert not (self.one_turn and self.turns), "a second turn on a connection that accepts one"
            name, number, voice = message["text"].split("/")
            assert self.context in (None, name), "two contexts on one connection"
            assert voice == self.voice or voice.startswith("bad"), "spoken with other settings than requested"
            self.context = name
            self.to_speak.append((name, int(number)))
        if message["type"] == "flush" or message.get("flush"):
            assert self.context, "a flush without text went up"
            self.flushed = True

    def over(self) -> None:
        self.to_speak.clear()
        self.context, self.flushed = None, False
        self.turns += 1


class OrderlyExtendedSpeech(RuleBasedStateMachine):
    """A well-behaved upstream that may drop or refuse connections. Every text is spoken once and in order, or its
    context fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}  # the number of texts of each context
        self.flushed: set[str] = set()
        self.providers: dict[int, Provider] = {}
        self.voice = "v0"
        self.updates = 0
        self.drops: Counter[str] = Counter()  # how often each context was dropped before its audio

    @initialize(flush=st.sampled_from(["standalone", "inline"]), model=st.sampled_from([AURA, SONIOX]))
    def start(self, flush: Any, model: str) -> None:
        self.model = model
        options = TtsOptions(
            model=model, flush=flush, context_idle=1e6, first_audio_timeout=1e6, terminal_timeout=1e6,
            reconnect_seconds=1e6, jitter=lambda: 0.5,
        )  # fmt: skip
        self.talk = Conversation(TtsMachine(options, ExtendedTts("1", "1")))
        self.listener = Listener()
        self.follow(self.talk.client({**INIT, "voice": "v0"}))
        self.becomes_ready(0)

    def follow(self, steps: list[Step]) -> None:
        for what in steps:
            if what[0] == "up":
                number = what[1]
                if number not in self.providers:
                    self.providers[number] = Provider(self.talk.inits[number]["voice"], self.model == SONIOX)
                self.providers[number].receive(what[2])
            assert what[0] != "error" or what[2] == "goes on", "the session ended"
        self.listener.receive(steps)
        for name, sends_audio in self.listener.audio.items():
            expected = b"".join(word(name, number) for number in range(self.texts[name]))
            assert expected.startswith(sends_audio), "audio was lost, repeated, or sent for a wrong context"
            if self.listener.ended.get(name) == "completed":
                assert sends_audio == expected, "a context was completed, but not all of it was spoken"
        for name, reason in self.listener.ended.items():
            if reason == "completed":
                assert name in self.flushed
                assert name in self.listener.audio
            if reason == "failed":
                assert name in self.listener.audio or self.drops[name] > 1

    # The client

    @property
    def unflushed(self) -> list[str]:
        return [name for name in self.texts if name not in self.flushed and name not in self.listener.ended]

    @rule(data=st.data(), new=st.booleans(), flush=st.booleans())
    def text(self, data: st.DataObject, new: bool, flush: bool) -> None:
        if new or not self.unflushed:
            name = f"c{len(self.texts)}"
            self.texts[name] = 0
        else:
            name = data.draw(st.sampled_from(self.unflushed))
        words = f"{name}/{self.texts[name]}/{self.voice}"
        self.texts[name] += 1
        if flush:
            self.flushed.add(name)
        self.follow(self.talk.client({"type": "text", "context_id": name, "text": words, "flush": flush}))

    @precondition(lambda self: self.unflushed)
    @rule(data=st.data())
    def flush(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.unflushed))
        self.flushed.add(name)
        self.follow(self.talk.client({"type": "flush", "context_id": name}))

    @precondition(lambda self: self.texts and not any(self.providers[n].late for n in self.working))
    @rule(data=st.data(), all_of_them=st.booleans())
    def clear(self, data: st.DataObject, all_of_them: bool) -> None:
        name = None if all_of_them else data.draw(st.sampled_from(list(self.texts)))
        others = {other for other in self.texts if name not in (None, other)} - self.listener.ended.keys()
        self.listener.clears[name] += 1
        self.follow(self.talk.client({"type": "clear", **({"context_id": name} if name else {})}))
        assert not self.listener.clears[name]
        assert not others & self.listener.ended.keys(), "clearing one context ended another"
        assert self.listener.ended.keys() >= (self.texts.keys() if name is None else {name})

    @rule(voice=st.sampled_from(["v0", "v1", "v2", "bad1", "bad2"]))
    def update(self, voice: str) -> None:
        self.updates += 1
        self.voice = voice
        self.listener.updates.add(str(self.updates))
        self.follow(self.talk.client({"type": "update", "id": str(self.updates), "voice": voice}))

    # Upstream

    @property
    def working(self) -> list[int]:
        return [number for number, ready in self.talk.open.items() if ready and number in self.providers]

    @property
    def opening(self) -> list[int]:
        return [number for number, ready in self.talk.open.items() if not ready]

    @precondition(lambda self: self.opening)
    @rule(data=st.data())
    def opens(self, data: st.DataObject) -> None:
        self.becomes_ready(data.draw(st.sampled_from(self.opening)))

    def becomes_ready(self, number: int) -> None:
        voice = self.talk.inits[number]["voice"]
        if voice.startswith("bad"):
            if self.voice == voice:
                # The next text is spoken with the previous settings; the machine knows which those are.
                self.voice = "bad"
            self.follow(self.talk.lost(NO_SUCH_VOICE, connection=number))
            return
        self.follow(self.talk.ready(connection=number))
        self.time(5)  # long enough that the connection does not count as short-lived

    @precondition(lambda self: self.opening)
    @rule(data=st.data())
    def is_busy(self, data: st.DataObject) -> None:
        self.follow(self.talk.lost(BUSY, connection=data.draw(st.sampled_from(self.opening))))

    @precondition(lambda self: any(self.providers[number].to_speak for number in self.working))
    @rule(data=st.data())
    def sends_audio(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from([n for n in self.working if self.providers[n].to_speak]))
        self.send_audio(number)

    def send_audio(self, number: int) -> None:
        self.follow(self.talk.upstream(word(*self.providers[number].to_speak.pop(0)), connection=number))

    @precondition(lambda self: any(self.providers[number].flushed for number in self.working))
    @rule(data=st.data(), twice=st.booleans(), closes=st.booleans())
    def end(self, data: st.DataObject, twice: bool, closes: bool) -> None:
        number = data.draw(st.sampled_from([n for n in self.working if self.providers[n].flushed]))
        self.ends(number)
        if twice and number in self.talk.open:
            self.follow(self.talk.upstream(AUDIO_END, connection=number))
        if closes and number in self.talk.open:
            self.follow(self.talk.lost(upstream_close(1000), connection=number))

    def ends(self, number: int) -> None:
        provider = self.providers[number]
        while provider.to_speak and number in self.talk.open:
            self.send_audio(number)
        provider.late, provider.clearing = provider.clearing, False
        provider.over()
        self.follow(self.talk.upstream(AUDIO_END, connection=number))

    @precondition(lambda self: any(self.providers[n].clearing or self.providers[n].late for n in self.working))
    @rule(data=st.data())
    def confirms(self, data: st.DataObject) -> None:
        number = data.draw(
            st.sampled_from([n for n in self.working if self.providers[n].clearing or self.providers[n].late])
        )
        self.confirm(number)

    def confirm(self, number: int) -> None:
        provider = self.providers[number]
        if provider.clearing:
            provider.over()
        provider.late = provider.clearing = False
        self.follow(self.talk.upstream(CLEARED, connection=number))

    @precondition(lambda self: any(self.talk.open.values()))
    @rule(data=st.data(), code=st.sampled_from([1006, 1011]))
    def is_dropped(self, data: st.DataObject, code: int) -> None:
        number = data.draw(st.sampled_from([number for number, ready in self.talk.open.items() if ready]))
        if (provider := self.providers.get(number)) is not None and provider.context and not provider.clearing:
            self.drops[provider.context] += 1
        self.follow(self.talk.lost(upstream_close(code), connection=number))

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 20.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return
        while self.unflushed:
            name = self.unflushed[0]
            self.flushed.add(name)
            self.follow(self.talk.client({"type": "flush", "context_id": name}))
        for _ in range(8 * (len(self.texts) + self.updates) + 8):
            for number in self.opening:
                if number in self.talk.open:
                    self.becomes_ready(number)
            for number in self.working:
                if number in self.talk.open and (self.providers[number].clearing or self.providers[number].late):
                    self.confirm(number)
                elif number in self.talk.open and self.providers[number].flushed:
                    self.ends(number)
            self.time(5)
        assert self.listener.ended.keys() == self.texts.keys(), "a context never ended"
        assert not self.listener.updates, "an update was never answered"


TestOrderlyExtendedSpeech = OrderlyExtendedSpeech.TestCase
TestOrderlyExtendedSpeech.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
