"""A plain TTS session in which both sides do anything, and one with a well-behaved upstream."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.any_order import AnyOrder
from support.conversation import Step, odd_client_messages, odd_upstream_messages
from support.plain_tts import AUDIO_END, CLEAR, CLEARED, CLOSE, FLUSH, FLUSHED, INIT, live, new, text


class AnySpeech(AnyOrder):
    """Client and upstream do anything in any order, and ``Conversation`` checks each command."""

    @initialize(
        flush=st.sampled_from(["standalone", "inline"]),
        form=st.sampled_from(["upstream", "audio_end", "flushed"]),
        begun=st.booleans(),
    )
    def start(self, flush: Any, form: Any, begun: bool) -> None:
        self.talk = live(flush=flush, terminal_form=form) if begun else new(flush=flush, terminal_form=form)

    def follow(self, steps: list[Step]) -> None:
        self.steps = steps
        assert len(self.talk.open) <= 1, "one connection is enough for a plain session"
        if self.talk.over:
            assert not self.talk.open, "a connection was left behind"

    @rule(
        message=st.sampled_from(
            [INIT, text("one"), text("two", flush=True), text(" "), FLUSH, CLEAR, {"type": "cancel"}, CLOSE]
        )
        | odd_client_messages("close", "stop")
        | st.just(b"binary")
    )
    def client(self, message: Any) -> None:
        self.follow(self.talk.client(message))

    @rule()
    def leaves(self) -> None:
        if not self.talk.over and len(self.talk.inits) > 2:
            self.follow(self.talk.client_leaves())

    @precondition(lambda self: self.talk.open.get(self.talk.newest))
    @rule(
        message=st.sampled_from(
            [b"sound", AUDIO_END, FLUSHED, CLEARED, {"type": "error"}, {"audio": "QUJD", "isFinal": 1}]
        )
        | odd_upstream_messages()
    )
    def upstream(self, message: Any) -> None:
        self.follow(self.talk.upstream(message))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 1.0, 15.0, 100.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))


TestAnySpeech = AnySpeech.TestCase
TestAnySpeech.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@dataclass
class Turn:
    """A turn from the client's point of view."""

    number: int
    flushed: bool = False


@dataclass
class Upstream:
    """A well-behaved upstream connection: it speaks one turn after the other and acknowledges a clear."""

    turns: deque[tuple[int, bool]] = field(default_factory=deque)  # (number of the turn, whether it is flushed)
    clearing: bool = False  # a clear arrived that is not acknowledged yet
    late: bool = False  # the turn ended before the clear arrived, which is acknowledged all the same

    def receive(self, message: dict[str, Any]) -> None:
        if message["type"] == "clear":
            self.clearing = True
            return
        assert not self.clearing, "something was sent before the clear was acknowledged"
        unfinished = self.turns and not self.turns[-1][1]
        if message["type"] == "text":
            if not unfinished:
                assert not self.turns, "a turn began before the one before it had ended"
                self.turns.append((0, False))
            if message["text"] != " ":
                number = int(message["text"])
                assert self.turns[-1][0] in (0, number), "a turn began before the one before it was flushed"
                self.turns[-1] = (number, False)
        if message["type"] == "flush" or message.get("flush"):
            assert unfinished or message["type"] == "text", "a flush without text went up"
            assert self.turns[-1][0], "spaces alone went up"
            self.turns[-1] = (self.turns[-1][0], True)


class OrderlySpeech(RuleBasedStateMachine):
    """An upstream that answers in order but may drop. Each turn gets only its own audio and ends exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: deque[Turn] = deque()  # the turns that the client waits for; the last one may be unflushed
        self.count = 0
        self.upstreams: dict[int, Upstream] = {}
        self.cut = False  # the unflushed turn failed before its flush

    @initialize(flush=st.sampled_from(["standalone", "inline"]), form=st.sampled_from(["upstream", "flushed"]))
    def start(self, flush: Any, form: Any) -> None:
        self.talk = new(flush=flush, terminal_form=form, context_idle=10_000, first_audio_timeout=500)
        self.follow(self.talk.client(INIT))

    def follow(self, steps: list[Step]) -> None:
        for what in steps:
            match what:
                case ("up", number, message):
                    self.upstreams.setdefault(number, Upstream()).receive(message)
                case ("down", bytes(data)):
                    assert self.turns, "audio came that belongs to no turn"
                    assert data == self.turns[0].number.to_bytes(4, "big"), "audio of another turn"
                case ("down", {"type": "audio_end" | "flushed"}):
                    assert self.turns, "a terminal came that belongs to no turn"
                    self.cut = not self.turns.popleft().flushed
                    assert not self.cut or not self.turns
                case ("down", {"type": "ready"} | {"type": "cleared"}) | ("error", _, "goes on") | ("dial", _):
                    pass
                case ("retire", _):
                    pass
                case _:
                    raise AssertionError(f"unexpected: {what}")
        busy = [number for number in self.talk.open if self.upstreams.get(number, Upstream()).turns]
        assert len(busy) <= 1

    def current(self) -> Upstream | None:
        return self.upstreams.get(self.talk.newest) if self.talk.open.get(self.talk.newest) else None

    @precondition(lambda self: not self.cut)
    @rule(blank=st.booleans(), flush=st.booleans())
    def text(self, blank: bool, flush: bool) -> None:
        if not self.turns or self.turns[-1].flushed:
            self.count += 1
            self.turns.append(Turn(self.count))
        turn = self.turns[-1]
        turn.flushed = flush
        self.follow(self.talk.client(text(" " if blank else str(turn.number), **({"flush": True} if flush else {}))))

    @precondition(lambda self: self.turns and not self.turns[-1].flushed)
    @rule()
    def flush(self) -> None:
        self.turns[-1].flushed = True
        self.follow(self.talk.client(FLUSH))

    @precondition(lambda self: not ((upstream := self.current()) and upstream.late))
    @rule(message=st.sampled_from([CLEAR, {"type": "cancel"}]))
    def clear(self, message: dict[str, Any]) -> None:
        self.turns.clear()
        self.cut = False
        self.follow(self.talk.client(message))

    @precondition(lambda self: self.talk.open.get(self.talk.newest) is False)
    @rule()
    def ready(self) -> None:
        self.follow(self.talk.ready())
        self.time(5)  # long enough that the connection does not count as short-lived

    @precondition(lambda self: (upstream := self.current()) and upstream.turns and upstream.turns[0][0])
    @rule()
    def audio(self) -> None:
        upstream = self.current()
        assert upstream
        self.follow(self.talk.upstream(upstream.turns[0][0].to_bytes(4, "big")))

    @precondition(lambda self: (upstream := self.current()) and upstream.turns and upstream.turns[0][1])
    @rule(twice=st.booleans(), closes=st.booleans(), terminal=st.sampled_from([AUDIO_END, FLUSHED]))
    def end(self, twice: bool, closes: bool, terminal: dict[str, Any]) -> None:
        upstream = self.current()
        assert upstream
        upstream.turns.popleft()
        if upstream.clearing:
            upstream.clearing, upstream.late = False, True
        self.follow(self.talk.upstream(terminal))
        if twice:
            self.follow(self.talk.upstream(terminal))
        if closes and self.talk.newest in self.talk.open:
            self.lost(1000)

    @precondition(lambda self: (upstream := self.current()) and upstream.late)
    @rule()
    def confirm_late(self) -> None:
        upstream = self.current()
        assert upstream
        upstream.late = False
        self.follow(self.talk.upstream(CLEARED))

    @precondition(lambda self: (upstream := self.current()) and upstream.clearing)
    @rule()
    def confirm(self) -> None:
        upstream = self.current()
        assert upstream
        upstream.turns.clear()
        upstream.clearing = False
        self.follow(self.talk.upstream(CLEARED))

    @precondition(lambda self: self.talk.open.get(self.talk.newest))
    @rule(code=st.sampled_from([1000, 1006, 1011]))
    def lost(self, code: int) -> None:
        self.follow(self.talk.lost(code))

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 20.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return
        if self.turns and not self.turns[-1].flushed:
            self.flush()
        for _ in range(5 * len(self.turns) + 5):
            upstream = self.current()
            if self.talk.open.get(self.talk.newest) is False:
                self.ready()
            elif upstream and upstream.clearing:
                self.confirm()
            elif upstream and upstream.late:
                # A route may acknowledge a clear only by the terminal of the turn, which counts after a second.
                self.time(1)
                upstream.late = False
            elif upstream and upstream.turns:
                self.audio()
                self.end(False, False, AUDIO_END)
            self.time(0.1)
        assert not self.turns, "a turn never ended"


TestOrderlySpeech = OrderlySpeech.TestCase
TestOrderlySpeech.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
