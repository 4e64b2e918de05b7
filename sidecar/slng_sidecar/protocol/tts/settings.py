"""The settings of a TTS session over time: in force, asked for, and refused.

Each change is a revision of the one before it. Texts belong to the revision that was the newest when they came, so what
was said before a change keeps its settings, and where upstream refuses a change its texts fall back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.updates import ConnectionSettings, Update, changed


@dataclass(frozen=True, slots=True)
class ConnectionKey:
    """What makes two upstream connections equal."""

    model: str
    init: str


@dataclass(slots=True)
class Answer:
    """What an ``update`` came to; the fields are those of ``updated``."""

    id: str | None
    applied: dict[str, Any]
    unchanged: list[str]
    rejected: dict[str, str]

    def refuse(self, why: str) -> None:
        """Turn what was to be applied into refused."""
        self.rejected |= dict.fromkeys(self.applied, why)
        self.applied = {}


@dataclass(slots=True, eq=False)
class SettingsRevision:
    """Settings from one ``update`` on, or from ``init``.

    Mutable: ``settings``, with ``key``, as long as it is ``pending``; ``answers``, owed until then.
    """

    settings: ConnectionSettings
    wanted: dict[str, Any] = field(default_factory=dict)
    pending: bool = False
    answers: list[Answer] = field(default_factory=list)
    key: ConnectionKey = field(init=False)

    def __post_init__(self) -> None:
        self.rebase(self.settings)

    def rebase(self, settings: ConnectionSettings) -> None:
        """Take other settings."""
        self.settings = settings
        self.key = ConnectionKey(settings.model, dump(settings.init))


class SettingsHistory:
    """All revisions that texts may still belong to, oldest first; the first one is in force.

    Mutable: ``_list``, never empty.
    """

    def __init__(self, settings: ConnectionSettings) -> None:
        self._list = [SettingsRevision(settings)]

    @property
    def newest(self) -> SettingsRevision:
        """What the next text is said with."""
        return self._list[-1]

    @property
    def pending(self) -> list[SettingsRevision]:
        """Those that upstream has not answered yet."""
        return [revision for revision in self._list if revision.pending]

    @property
    def changing(self) -> bool:
        """Whether there is more than what is in force."""
        return len(self._list) > 1

    @property
    def keys(self) -> set[ConnectionKey]:
        """What connections may be needed for: the newest settings in force, and all later ones."""
        last = max(at for at, revision in enumerate(self._list) if not revision.pending)
        return {revision.key for revision in self._list[last:]} | {revision.key for revision in self.pending}

    def take(self, update: Update, *, used: bool) -> Answer | None:
        """Take an update in.

        Args:
            used: whether there are texts that belong to the newest revision.

        Returns:
            Its answer, where it can be given at once since nothing changes; else None.
        """
        settings, unchanged = changed(self.newest.settings, update.wanted)
        wanted = {name: value for name, value in update.wanted.items() if name not in unchanged}
        answer = Answer(update.id, dict(wanted), unchanged, update.rejected)
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

    def settle(self, key: ConnectionKey) -> list[Answer]:
        """Note that upstream takes a shape; give the answers that follow."""
        answers: list[Answer] = []
        for revision in self.pending:
            if revision.key == key:
                revision.pending = False
                answers += revision.answers
                revision.answers = []
        return answers

    def refuse(self, revision: SettingsRevision, why: str) -> tuple[SettingsRevision, list[Answer]]:
        """Take a pending revision out; later ones that are pending too stand without its changes.

        Returns:
            The revision whose settings hold for its texts, and the answers that follow.
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
        """Drop the oldest ones that nothing belongs to any more."""
        still = {id(revision) for revision in used}
        while len(self._list) > 1 and not self._list[1].pending and id(self._list[0]) not in still:
            del self._list[0]
