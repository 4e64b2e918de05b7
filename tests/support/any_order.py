"""The rules that the Hypothesis tests of a session on one connection at a time share."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.conversation import Conversation, Step


class AnyOrder(RuleBasedStateMachine):
    """A session on one connection at a time, whose upstream becomes ready and is lost at any moment."""

    talk: Conversation

    def follow(self, steps: list[Step]) -> None:
        """Check what the session does in return for an event."""
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
