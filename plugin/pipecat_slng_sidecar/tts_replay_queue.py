"""The replay queue of a TTS connection: texts, flushes and updates that must be sent again after a reconnect.

The module does no I/O and reads no clock. The sidecar does not accept the id of a context that has ended. If Pipecat
adds text to a context after that, the text goes into another wire context with an id of its own.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipecat_slng_sidecar.stt_replay_queue import SessionInit


@dataclass(slots=True, eq=False)
class WireContext:
    """A context as the sidecar knows it. It carries text of one Pipecat context.

    Attributes:
        id: the ``context_id`` in messages to and from the sidecar.
        pipecat_id: the id of the Pipecat context.
        flushed: whether it has all its text.
        has_audio: whether audio came for it.
        was_sent: whether any of it was sent on the current connection.
        was_sent_before: whether any of it was sent on an earlier connection.
    """

    id: str
    pipecat_id: str
    flushed: bool = False
    has_audio: bool = False
    was_sent: bool = False
    was_sent_before: bool = False


@dataclass(slots=True)
class _ContextMessage:
    """A ``text`` or ``flush`` of a context."""

    context: WireContext
    message: str


@dataclass(slots=True)
class _Update:
    message: str
    after: SessionInit


@dataclass(slots=True)
class _Clear:
    message: str


_Entry = _ContextMessage | _Update | _Clear


class TtsReplayQueue:
    """Texts, flushes and updates in order, kept until audio has come for their contexts.

    Mutable: ``_sent``, the entries sent on the current connection, which the next one sends again as long as their
    contexts have no audio; ``_unsent``, the entries after those; ``_session_init``, the settings that apply before the
    oldest entry; ``_contexts``, the contexts that have not ended, by id; ``_numbers``, by Pipecat context, how many
    wire contexts it has had; ``_close_requested``.
    """

    def __init__(self, session_init: SessionInit) -> None:
        """Create an empty queue.

        Args:
            session_init: the settings to start with.
        """
        self._session_init = session_init
        self._sent: deque[_ContextMessage | _Update] = deque()
        self._unsent: deque[_Entry] = deque()
        self._contexts: dict[str, WireContext] = {}
        self._numbers: dict[str, int] = {}
        self._close_requested = False

    def __repr__(self) -> str:
        return f"TtsReplayQueue(contexts={list(self._contexts)}, sent={len(self._sent)}, unsent={len(self._unsent)})"

    @property
    def waiting_characters(self) -> int:
        """How many characters of messages wait for their audio, whether they were sent or not."""
        return sum(len(entry.message) for entry in (*self._sent, *self._unsent) if isinstance(entry, _ContextMessage))

    # Called by the service

    def get(self, context_id: str) -> WireContext | None:
        """Return the context with this wire id, or ``None`` if it has ended or never began."""
        return self._contexts.get(context_id)

    def begin(self, pipecat_id: str) -> WireContext:
        """Create a wire context for a Pipecat context."""
        number = self._numbers[pipecat_id] = self._numbers.get(pipecat_id, 0) + 1
        context = WireContext(pipecat_id if number == 1 else f"{pipecat_id}#{number}", pipecat_id)
        self._contexts[context.id] = context
        return context

    def add_text(self, context: WireContext, text: str) -> None:
        """Add text to a context."""
        self._add(context, {"type": "text", "context_id": context.id, "text": text})

    def flush(self, context: WireContext) -> None:
        """Mark a context as having all its text."""
        if not context.flushed:
            context.flushed = True
            self._add(context, {"type": "flush", "context_id": context.id})

    def clear(self, context: WireContext) -> None:
        """Discard a context. If any of it was sent, send a ``clear`` before everything else."""
        self.remove(context)
        self._unsent = deque(entry for entry in self._unsent if not _belongs_to(entry, context))
        if context.was_sent:
            self._unsent.appendleft(_Clear(json.dumps({"type": "clear", "context_id": context.id})))

    def update(self, message: dict[str, Any], after: SessionInit) -> None:
        """Change the settings for the text that follows.

        Args:
            message: the ``update`` message.
            after: the settings that apply to that text.
        """
        self._unsent.append(_Update(json.dumps(message), after))

    def request_close(self) -> None:
        """Send a ``close`` after everything else."""
        self._close_requested = True

    def remove(self, context: WireContext) -> None:
        """Remove a context that has ended. Its messages are not sent again."""
        self._contexts.pop(context.id, None)
        self._filter_sent(lambda entry: not _belongs_to(entry, context))

    def forget_pipecat_context(self, pipecat_id: str) -> None:
        """Forget how many wire contexts a Pipecat context has had, because it is finished."""
        self._numbers.pop(pipecat_id, None)

    def mark_audio(self, context: WireContext) -> None:
        """Record that audio came for a context, so that its text is not sent again."""
        context.has_audio = True
        self._filter_sent(lambda entry: not _belongs_to(entry, context))

    def pop_unrepeatable(self) -> list[WireContext]:
        """Remove and return the contexts that must not be sent on a new connection.

        These are the contexts that have audio already, and those that were sent on two connections without audio.
        """
        unrepeatable = [
            each for each in self._contexts.values() if each.has_audio or (each.was_sent and each.was_sent_before)
        ]
        for context in unrepeatable:
            self.remove(context)
            self._unsent = deque(entry for entry in self._unsent if not _belongs_to(entry, context))
        return unrepeatable

    def discard_all(self) -> list[WireContext]:
        """Remove everything and return the contexts. The settings of the newest update apply from now on."""
        contexts = list(self._contexts.values())
        for entry in (*self._sent, *self._unsent):
            if isinstance(entry, _Update):
                self._session_init = entry.after
        self._contexts.clear()
        self._sent.clear()
        self._unsent.clear()
        return contexts

    # Called by the connection

    def begin_connection(self) -> tuple[str, dict[str, Any]]:
        """Queue again what has no audio yet, and return the model and the ``init`` of a new connection."""
        again = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        for context in self._contexts.values():
            context.was_sent_before, context.was_sent = context.was_sent_before or context.was_sent, False
        for entry in again:
            if isinstance(entry, _Update) and not self._unsent:
                # Nothing precedes this update, so its settings become part of the ``init``.
                self._session_init = entry.after
            elif not isinstance(entry, _Clear):
                self._unsent.append(entry)
        return self._session_init.model, self._session_init.init

    def next_message(self) -> str | None:
        """Return the next message to send, or ``None`` if there is none."""
        if not self._unsent:
            if not self._close_requested:
                return None
            self._close_requested = False
            return '{"type": "close"}'
        entry = self._unsent.popleft()
        if isinstance(entry, _ContextMessage):
            entry.context.was_sent = True
            if not entry.context.has_audio:
                self._sent.append(entry)
        elif isinstance(entry, _Update):
            self._sent.append(entry)
            self._filter_sent(lambda _entry: True)
        return entry.message

    def end_connection(self) -> None:
        """Do nothing: a closed connection changes nothing before the next one begins."""

    def _add(self, context: WireContext, message: dict[str, Any]) -> None:
        if context.id in self._contexts:
            self._unsent.append(_ContextMessage(context, json.dumps(message)))

    def _filter_sent(self, keep: Callable[[_ContextMessage | _Update], bool]) -> None:
        """Keep only the sent entries for which ``keep`` is true, and apply updates that no entry precedes."""
        remaining: deque[_ContextMessage | _Update] = deque()
        for entry in self._sent:
            if isinstance(entry, _Update) and not remaining:
                self._session_init = entry.after
            elif keep(entry):
                remaining.append(entry)
        self._sent = remaining


def _belongs_to(entry: _Entry, context: WireContext) -> bool:
    return isinstance(entry, _ContextMessage) and entry.context is context
