"""The settings of a TTS session over time: in force, asked for, and refused.

Each change is a revision of the one before it. Text belongs to the revision that was the newest when the text came.
What was queued before a change therefore keeps its settings, and if upstream refuses a change its text falls back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.updates import ConnectionSettings, Update, changed


@dataclass(frozen=True, slots=True)
class ConnectionKey:
    """What two connections must share to be interchangeable: the model and the ``init`` message."""

    model: str
    init: str


@dataclass(slots=True)
class UpdateAnswer:
    """The answer to an ``update``, with the fields of ``updated``."""

    id: str | None
    applied: dict[str, Any]
    unchanged: list[str]
    rejected: dict[str, str]

    def refuse(self, why: str) -> None:
        """Move every field that was to be applied to the rejected ones."""
        self.rejected |= dict.fromkeys(self.applied, why)
        self.applied = {}


@dataclass(slots=True, eq=False)
class SettingsRevision:
    """The settings from one ``update`` on, or from ``init``.

    Mutable: ``settings``, with ``key``, as long as the revision is ``pending``; ``answers``, owed until then.
    """

    settings: ConnectionSettings
    wanted: dict[str, Any] = field(default_factory=dict)
    pending: bool = False
    answers: list[UpdateAnswer] = field(default_factory=list)
    key: ConnectionKey = field(init=False)

    def __post_init__(self) -> None:
        self.rebase(self.settings)

    def rebase(self, settings: ConnectionSettings) -> None:
        """Replace the settings."""
        self.settings = settings
        self.key = ConnectionKey(settings.model, dump(settings.init))


class SettingsHistory:
    """All revisions that text may still belong to, oldest first. The first one is in force.

    Mutable: ``_list``, which is never empty.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._list = [SettingsRevision(settings)]

    @property
    def newest(self) -> SettingsRevision:
        """The revision of the next text."""
        return self._list[-1]

    @property
    def pending(self) -> list[SettingsRevision]:
        """The revisions that upstream has neither accepted nor refused yet."""
        return [revision for revision in self._list if revision.pending]

    @property
    def is_changing(self) -> bool:
        """Whether there are revisions besides the one in force."""
        return len(self._list) > 1

    @property
    def keys(self) -> set[ConnectionKey]:
        """The keys of connections that may be needed: of the newest accepted settings and of all later ones."""
        last = max(at for at, revision in enumerate(self._list) if not revision.pending)
        return {revision.key for revision in self._list[last:]} | {revision.key for revision in self.pending}

    def add(self, update: Update, *, used: bool) -> UpdateAnswer | None:
        """Add an update.

        Args:
            used: whether there is text that belongs to the newest revision.

        Returns:
            The answer, if it is known at once because nothing changes; otherwise None.
        """
        settings, unchanged = changed(self.newest.settings, update.wanted)
        wanted = {name: value for name, value in update.wanted.items() if name not in unchanged}
        answer = UpdateAnswer(update.id, dict(wanted), unchanged, update.rejected)
        if not wanted and not self.newest.pending:
            return answer
        if self.newest.pending and (not used or not wanted):
            self.newest.wanted |= wanted
            if wanted:
                self.newest.rebase(settings)
        else:
            self._list.append(SettingsRevision(settings, wanted, pending=True))
        self.newest.answers.append(answer)
        return None

    def accept(self, key: ConnectionKey) -> list[UpdateAnswer]:
        """Record that upstream accepts the settings of a key, and return the answers that follow."""
        answers: list[UpdateAnswer] = []
        for revision in self.pending:
            if revision.key == key:
                revision.pending = False
                answers += revision.answers
                revision.answers = []
        return answers

    def refuse(self, revision: SettingsRevision, why: str) -> tuple[SettingsRevision, list[UpdateAnswer]]:
        """Remove a pending revision. Later pending ones are rebased without its changes.

        Returns:
            The revision that its text falls back to, and the answers that follow.
        """
        at = self._list.index(revision)
        del self._list[at]
        before = self._list[at - 1]
        for earlier, later in zip(self._list[at - 1 :], self._list[at:], strict=False):
            if not later.pending:
                break
            later.rebase(changed(earlier.settings, later.wanted)[0])
        for answer in revision.answers:
            answer.refuse(why)
        return before, revision.answers

    def forget(self, used: Iterable[SettingsRevision]) -> None:
        """Remove the oldest revisions, as far as no text belongs to them."""
        still_used = {id(revision) for revision in used}
        while len(self._list) > 1 and not self._list[1].pending and id(self._list[0]) not in still_used:
            del self._list[0]
