"""The rules that Hypothesis tests share for sessions that use one connection at a time."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.conversation import Conversation, Step


class AnyOrder(RuleBasedStateMachine):
    """A session that uses one connection at a time. Upstream becomes ready and is lost at any moment."""

    talk: Conversation

    def follow(self, steps: list[Step]) -> None:
        """Check the steps that follow an event."""
        raise NotImplementedError

    @precondition(lambda self: self.talk.open.get(self.talk.newest) is False)
    @rule()
    def ready(self) -> None:
        self.follow(self.talk.ready())

    @precondition(lambda self: self.talk.newest in self.talk.open)
    @rule(code=st.sampled_from([1000, 1005, 1006, 1008, 1011]))
    def lost(self, code: int) -> None:
        self.follow(self.talk.lost(code))

    @invariant()
    def a_session_that_is_over_has_no_deadline(self) -> None:
        if hasattr(self, "talk") and self.talk.over:
            assert self.talk.machine.deadline is None
