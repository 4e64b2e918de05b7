"""What is to be said and was not yet heard of: the script of a TTS connection.

Pure: no clock, no socket. Each stretch of text that Pipecat wants spoken under one context is an utterance here, with
an id of its own on the wire, since the sidecar does not take an id again that has ended.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipecat_slng_sidecar.stt_replay_queue import SessionInit


@dataclass(slots=True, eq=False)
class Utterance:
    """One context on the wire.

    Attributes:
        id: its ``context_id`` there.
        context_id: the Pipecat context that it speaks for.
        flushed: whether it has all its text.
        voiced: whether sound of it has come.
        sent: whether something of it went out on this connection.
        repeated: whether it went out on an earlier one, too.
    """

    id: str
    context_id: str
    flushed: bool = False
    voiced: bool = False
    sent: bool = False
    repeated: bool = False


@dataclass(slots=True)
class _Said:
    utterance: Utterance
    message: str


@dataclass(slots=True)
class _Update:
    message: str
    after: SessionInit


@dataclass(slots=True)
class _Clear:
    message: str


_Entry = _Said | _Update | _Clear


class TtsReplayQueue:
    """Texts, flushes and updates in their order, kept until sound has come for them.

    ``_sent`` went out on this connection and goes again on the next one as long as its utterance is silent; ``_unsent``
    follows it. ``_session_init`` holds where the oldest of both begins.
    """

    def __init__(self, session_init: SessionInit) -> None:
        self._session_init = session_init
        self._sent: deque[_Said | _Update] = deque()
        self._unsent: deque[_Entry] = deque()
        self._live: dict[str, Utterance] = {}
        self._times: dict[str, int] = {}
        self._ending = False

    def __repr__(self) -> str:
        return f"TtsReplayQueue(live={list(self._live)}, sent={len(self._sent)}, unsent={len(self._unsent)})"

    @property
    def waiting(self) -> int:
        """How many characters wait for their sound, sent or not."""
        return sum(len(entry.message) for entry in (*self._sent, *self._unsent) if isinstance(entry, _Said))

    def live(self, utterance_id: str) -> Utterance | None:
        """Give an utterance that has not ended."""
        return self._live.get(utterance_id)

    def begin(self, context_id: str) -> Utterance:
        """Make an utterance for a Pipecat context."""
        times = self._times[context_id] = self._times.get(context_id, 0) + 1
        utterance = Utterance(context_id if times == 1 else f"{context_id}#{times}", context_id)
        self._live[utterance.id] = utterance
        return utterance

    def say(self, utterance: Utterance, text: str) -> None:
        """Add text to an utterance."""
        self._add(utterance, {"type": "text", "context_id": utterance.id, "text": text})

    def flush(self, utterance: Utterance) -> None:
        """Say that an utterance has all its text."""
        if not utterance.flushed:
            utterance.flushed = True
            self._add(utterance, {"type": "flush", "context_id": utterance.id})

    def clear(self, utterance: Utterance) -> None:
        """Take an utterance back; the sidecar hears of it before anything else that waits."""
        self.ended(utterance)
        self._unsent = deque(entry for entry in self._unsent if not _is_of(entry, utterance))
        if utterance.sent:
            self._unsent.appendleft(_Clear(json.dumps({"type": "clear", "context_id": utterance.id})))

    def update(self, message: dict[str, Any], after: SessionInit) -> None:
        """Change the settings for what is said from here on; ``after`` is what then holds."""
        self._unsent.append(_Update(json.dumps(message), after))

    def end(self) -> None:
        """Ask, after all this, for the close."""
        self._ending = True

    def ended(self, utterance: Utterance) -> None:
        """Hear that an utterance has ended, or forget it."""
        self._live.pop(utterance.id, None)
        self._keep_sent(lambda entry: not _is_of(entry, utterance))

    def forget(self, context_id: str) -> None:
        """Hear that a Pipecat context is over for good; its id does not come again."""
        self._times.pop(context_id, None)

    def sounds(self, utterance: Utterance) -> None:
        """Hear that sound of an utterance has come: it is not said again."""
        utterance.voiced = True
        self._keep_sent(lambda entry: not _is_of(entry, utterance))

    def take_broken(self) -> list[Utterance]:
        """Give, and end, what cannot be said on a new connection: what was heard in part, and what went out twice."""
        broken = [each for each in self._live.values() if each.voiced or (each.sent and each.repeated)]
        for utterance in broken:
            self.ended(utterance)
            self._unsent = deque(entry for entry in self._unsent if not _is_of(entry, utterance))
        return broken

    def take_all(self) -> list[Utterance]:
        """Give, and end, everything; settings stay as they were last asked for."""
        every = list(self._live.values())
        for entry in (*self._sent, *self._unsent):
            if isinstance(entry, _Update):
                self._session_init = entry.after
        self._live.clear()
        self._sent.clear()
        self._unsent.clear()
        return every

    # The script of a connection.

    def opening(self) -> tuple[str, dict[str, Any]]:
        """Begin a connection with what is not done with; give its model and ``init``."""
        again = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        for utterance in self._live.values():
            utterance.repeated, utterance.sent = utterance.repeated or utterance.sent, False
        for entry in again:
            if isinstance(entry, _Update) and not self._unsent:
                self._session_init = entry.after
            elif not isinstance(entry, _Clear):
                self._unsent.append(entry)
        return self._session_init.model, self._session_init.init

    def next(self) -> str | None:
        """Give what is to be sent next."""
        if not self._unsent:
            if not self._ending:
                return None
            self._ending = False
            return '{"type": "close"}'
        entry = self._unsent.popleft()
        if isinstance(entry, _Said):
            entry.utterance.sent = True
            if not entry.utterance.voiced:
                self._sent.append(entry)
        elif isinstance(entry, _Update):
            self._sent.append(entry)
            self._keep_sent(lambda _entry: True)
        return entry.message

    def closed(self) -> None:
        """Hear that the connection is gone."""

    def _add(self, utterance: Utterance, message: dict[str, Any]) -> None:
        if utterance.id in self._live:
            self._unsent.append(_Said(utterance, json.dumps(message)))

    def _keep_sent(self, kept: Callable[[_Said | _Update], bool]) -> None:
        """Keep of what was sent what may go again; updates that nothing stands before are in force."""
        remaining: deque[_Said | _Update] = deque()
        for entry in self._sent:
            if isinstance(entry, _Update) and not remaining:
                self._session_init = entry.after
            elif kept(entry):
                remaining.append(entry)
        self._sent = remaining


def _is_of(entry: _Entry, utterance: Utterance) -> bool:
    return isinstance(entry, _Said) and entry.utterance is utterance
