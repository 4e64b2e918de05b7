"""An STT session in which both sides do anything."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from slng_sidecar.protocol.stt.dialects import ExtendedStt, PlainStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine
from support.any_order import AnyOrder
from support.conversation import Conversation, Step, odd_client_messages, odd_upstream_messages
from support.plain_stt import CLOSE, FINALIZE, INIT


class AnyTranscription(AnyOrder):
    """Client and upstream do anything in any order, and ``Conversation`` checks each command.

    The invariants check the audio that is sent upstream: each connection gets a run of the session's audio without a
    gap. No finalize is answered twice.
    """

    def __init__(self) -> None:
        super().__init__()
        self.audio_so_far: list[bytes] = []
        self.sent: dict[int, list[bytes]] = {}
        self.closing = False

    @initialize(scope=st.sampled_from(["all", "partials", "off"]), extended=st.booleans())
    def start(self, scope: Any, extended: bool) -> None:
        dialect: Any = ExtendedStt("0", "1") if extended else PlainStt()
        options = SttOptions(confidence_scope=scope, jitter=lambda: 0.5)
        self.talk = Conversation(SttMachine(options, dialect))
        self.finalizes = self.answers = 0
        self.extended = extended

    def follow(self, steps: list[Step]) -> None:
        for what in steps:
            if what[0] == "up" and isinstance(what[2], bytes):
                self.sent.setdefault(what[1], []).append(what[2])
            elif what[0] == "down" and what[1].get("type") == "finalized":
                self.answers += 1

    @rule()
    def init(self) -> None:
        self.follow(self.talk.client(INIT))

    @rule()
    def audio(self) -> None:
        data = (len(self.audio_so_far) + 1).to_bytes(2, "big")
        if self.talk.inits and not self.closing and not self.talk.over:
            self.audio_so_far.append(data)
        self.follow(self.talk.client(data))

    @rule(name=st.sampled_from(["a", "b"]))
    def finalize(self, name: str) -> None:
        if self.talk.inits and not self.closing and not self.talk.over:
            self.finalizes += 1
        self.follow(self.talk.client({**FINALIZE, "id": name}))

    @rule(config=st.sampled_from([{}, {"language": "de"}, {"language": "fr", "sample_rate": 8000}]))
    def update(self, config: dict[str, Any]) -> None:
        self.follow(self.talk.client({"type": "update", "config": config}))

    @rule()
    def close(self) -> None:
        self.closing = self.closing or bool(self.talk.inits)
        self.follow(self.talk.client(CLOSE))

    @rule(message=odd_client_messages("init", "close", "stop", "finalize", "update"))
    def odd_message(self, message: str) -> None:
        self.follow(self.talk.client(message))

    @rule()
    def leaves(self) -> None:
        if not self.talk.over:
            self.follow(self.talk.client_leaves())

    @precondition(lambda self: self.talk.open.get(self.talk.newest))
    @rule(message=odd_upstream_messages())
    def upstream(self, message: str | bytes) -> None:
        self.follow(self.talk.upstream(message))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 5.0, 40.0, 2000.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    @invariant()
    def each_connection_gets_a_run_of_the_audio(self) -> None:
        for sent in self.sent.values():
            joined, whole = b"".join(sent), b"".join(self.audio_so_far)
            at = whole.find(joined)
            while at % 2:
                at = whole.find(joined, at + 1)
            assert at >= 0

    @invariant()
    def no_finalize_is_answered_twice(self) -> None:
        if hasattr(self, "talk") and self.extended:
            assert self.answers <= self.finalizes

    def teardown(self) -> None:
        if hasattr(self, "talk") and not self.talk.over and self.extended:
            self.follow(self.talk.wait(10))
            if not self.talk.over:
                assert self.answers == self.finalizes


TestAnyTranscription = AnyTranscription.TestCase
TestAnyTranscription.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
