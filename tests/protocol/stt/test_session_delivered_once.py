"""An STT session whose upstream transcribes the audio of any of its connections at any time."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from slng_sidecar.protocol.errors import GatewayError
from support.conversation import Step
from support.extended_stt import CLOSE, FINALIZE, final, live, silence, speech

_ANSWERS = st.sampled_from([{}, {}, {"from_finalize": True}, {"from_finalize": False}])
_PARTS = st.sampled_from([None, (0.0, 0.5), (0.5, 1.0), (0.9, 1.0)])
_LOSSES = st.sampled_from([1000, 1006, 1011, GatewayError("rate_limit", "too many", status=429)])


class DeliveredOnce(RuleBasedStateMachine):
    """Each final of each connection is delivered once and each finalize is answered once, through updates and drops."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[int, float] = {}
        self.transcribed: list[str] = []
        self.delivered: list[str] = []
        self.finalizes: list[str] = []
        self.answered: list[str] = []
        self.covered: list[int] = []

    @initialize(model=st.sampled_from(["deepgram/nova:3", "gradium/stt:default"]))
    def start(self, model: str) -> None:
        self.talk = live(model=model)

    @property
    def with_audio(self) -> list[int]:
        """Return the connections that received audio to transcribe."""
        return [number for number in self.talk.open if number in self.seconds]

    def follow(self, steps: list[Step]) -> None:
        for what in steps:
            if what[0] == "up" and isinstance(what[2], bytes):
                self.seconds[what[1]] = self.seconds.get(what[1], 0.0) + len(what[2]) / 32_000
            elif what[0] == "down" and what[1]["type"] == "finalized":
                self.answered.append(what[1]["finalize_id"])
            elif what[0] == "down" and what[1]["type"] == "final_transcript":
                self.delivered += what[1]["transcript"].split()
                self.covered.append(what[1]["covered_ms"])

    @precondition(lambda self: not self.talk.over)
    @rule(spoken=st.sampled_from([0, 60, 300]), then=st.sampled_from([0, 40, 250]))
    def audio(self, spoken: int, then: int) -> None:
        self.follow(self.talk.client(speech(spoken) + silence(then)))

    @precondition(lambda self: not self.talk.over)
    @rule()
    def finalize(self) -> None:
        self.finalizes.append(f"f{len(self.finalizes)}")
        self.follow(self.talk.client({**FINALIZE, "id": self.finalizes[-1]}))

    @precondition(lambda self: not self.talk.over)
    @rule(language=st.sampled_from(["de", "fr"]))
    def update(self, language: str) -> None:
        self.follow(self.talk.client({"type": "update", "config": {"language": language}}))

    @precondition(lambda self: self.talk.open.get(self.talk.newest) is False)
    @rule()
    def ready(self) -> None:
        self.follow(self.talk.ready())

    @precondition(lambda self: self.with_audio)
    @rule(which=st.integers(0, 2), part=_PARTS, fields=_ANSWERS)
    def transcribes(self, which: int, part: tuple[float, float] | None, fields: dict[str, Any]) -> None:
        """Send a final on a connection, with word times for a part of its audio or without word times."""
        connection = self.with_audio[which % len(self.with_audio)]
        self.transcribed.append(f"w{len(self.transcribed)}")
        seconds = self.seconds[connection]
        spans = [] if part is None else [(part[0] * seconds, part[1] * seconds)]
        self.follow(self.talk.upstream(final(self.transcribed[-1], *spans, **fields), connection=connection))

    @precondition(lambda self: self.talk.newest in self.talk.open)
    @rule(error=_LOSSES)
    def lost(self, error: GatewayError | int) -> None:
        self.follow(self.talk.lost(error))

    @rule(seconds=st.sampled_from([0.1, 0.3, 0.5, 2.0, 5.0]))
    def time(self, seconds: float) -> None:
        self.follow(self.talk.wait(seconds))

    @invariant()
    def nothing_comes_twice(self) -> None:
        assert len(set(self.delivered)) == len(self.delivered)
        assert len(set(self.answered)) == len(self.answered)

    @invariant()
    def what_is_covered_only_grows(self) -> None:
        assert self.covered == sorted(self.covered)

    def teardown(self) -> None:
        if not hasattr(self, "talk"):
            return
        if not self.talk.over:
            self.follow(self.talk.client(CLOSE))
            self.follow(self.talk.wait(60))
        assert self.talk.over
        assert sorted(self.delivered) == sorted(self.transcribed)
        if not any(error["fatal"] for error in self.talk.errors):
            assert sorted(self.answered) == sorted(self.finalizes)


TestDeliveredOnce = DeliveredOnce.TestCase
TestDeliveredOnce.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
