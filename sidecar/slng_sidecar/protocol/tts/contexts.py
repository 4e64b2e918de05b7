"""What a client has asked to say: its contexts, and the turns in which a context goes upstream."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.protocol.messages import Terminal
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.tts.settings import SettingsRevision

# How many ids of ended contexts are remembered. A call of an hour has fewer.
_IDS_KEPT = 10_000
# What a context adds to the characters that a client may be ahead by.
_CONTEXT_COUNTS_AS = 64


@dataclass(frozen=True, slots=True)
class DoubtedTerminal:
    """A terminal before the first audio, on a connection that carried a turn before.

    It may end that earlier turn a second time, so it counts only from ``counts_at`` on.
    """

    terminal: Terminal
    counts_at: float


@dataclass(slots=True, eq=False)
class Turn:
    """Texts of one context that are said with the same settings, on one connection.

    The texts are kept until the first audio, so that they can be sent again. The first ``sent`` of them are upstream.

    Attributes:
        is_closed: whether all its texts are known: its context was flushed, or the settings changed.
        connection: the number of the connection that carries it; None while it waits for one.
        has_audio: whether audio came for it.
        was_retried: whether it was lost before its audio once already.
        progress_at: when upstream last made progress with it.
        doubted: a terminal that may belong to an earlier turn.
    """

    revision: SettingsRevision
    texts: list[dict[str, Any]] = field(default_factory=list)
    is_closed: bool = False
    connection: int | None = None
    sent: int = 0
    flush_sent: bool = False
    has_audio: bool = False
    was_retried: bool = False
    progress_at: float = 0.0
    doubted: DoubtedTerminal | None = None

    @property
    def is_blank(self) -> bool:
        """Whether it has nothing to say so far."""
        return not self.sent and not self.has_audio and all(text["text"].isspace() for text in self.texts)

    def next_messages(self, *, inline: bool, now: float) -> list[dict[str, Any]]:
        """Return the messages to send now.

        Args:
            inline: whether the end of the turn is a field of its last text.
        """
        messages: list[dict[str, Any]] = []
        # If the end goes with the last text, that text waits until it is known to be the last.
        sendable = len(self.texts) if self.is_closed or not inline else len(self.texts) - 1
        while self.sent < sendable:
            message = self.texts[self.sent]
            self.sent += 1
            if inline and self.is_closed and self.sent == len(self.texts):
                message = {**message, "flush": True}
                self.flush_sent = True
            messages.append(message)
        if self.is_closed and not self.flush_sent and self.sent == len(self.texts):
            self.flush_sent = True
            messages.append({"type": "flush"})
        if messages:
            self.progress_at = now
        if self.has_audio:
            self._forget_sent()
        return messages

    def add_audio(self, now: float) -> None:
        """Record that audio came: texts that are upstream must not be sent again."""
        self._forget_sent()
        self.has_audio, self.progress_at, self.doubted = True, now, None

    def restart(self, *, counts: bool) -> None:
        """Start again on another connection.

        Args:
            counts: whether this is the one retry that a turn gets, if any of it was upstream.
        """
        self.was_retried = counts and self.sent > 0
        self.connection, self.sent, self.flush_sent, self.doubted = None, 0, False, None

    def overdue_at(self, first_audio_timeout: float, terminal_timeout: float) -> float | None:
        """Return when the turn counts as stuck; None as long as upstream waits for text.

        The first audio is due once all texts are upstream, and more audio or the terminal after that.
        """
        if self.connection is None or not self.flush_sent:
            return None
        return self.progress_at + (terminal_timeout if self.has_audio else first_audio_timeout)

    def _forget_sent(self) -> None:
        del self.texts[: self.sent]
        self.sent = 0


@dataclass(slots=True, eq=False)
class Context:
    """What the client calls a context: in the extended dialect all texts of one id, in the plain one up to a flush.

    Attributes:
        id: the client's ``context_id``; None in the plain dialect.
        began: when its first text came.
        touched: when the client last added to it.
        turns: what is left to say, oldest first. There is more than one only if settings changed within it.
        flushed: whether the client sent all of it.
        failed: in the plain dialect, whether a failure was reported. What the client adds after that is still said,
            and its flush ends the context.
        was_sent: whether any of it went upstream.
        received: bytes of audio that came for it.
        delivered: bytes of audio that the client got.
        characters: the length of all its texts.
        first_audio: when the first audio came for it.
    """

    id: str | None
    began: float
    touched: float
    turns: deque[Turn] = field(default_factory=deque)
    flushed: bool = False
    failed: bool = False
    was_sent: bool = False
    received: int = 0
    delivered: int = 0
    characters: int = 0
    first_audio: float | None = None

    def __repr__(self) -> str:
        sent, texts = sum(turn.sent for turn in self.turns), sum(len(turn.texts) for turn in self.turns)
        return f"<{sent}/{texts} texts{' flushed' if self.flushed else ''}, {self.received} bytes>"

    @property
    def turn(self) -> Turn | None:
        """The turn that is being said, or is next."""
        return self.turns[0] if self.turns else None

    @property
    def characters_kept(self) -> int:
        """How many characters wait to be said or are kept for a retry."""
        return sum(len(text["text"]) for turn in self.turns for text in turn.texts)

    def add(self, text: dict[str, Any], revision: SettingsRevision, now: float) -> None:
        """Add a text, to be said with the settings of ``revision``."""
        if not self.turns or self.turns[-1].is_closed:
            self.turns.append(Turn(revision))
        self.turns[-1].texts.append(text)
        self.characters += len(text["text"])
        self.touched = now

    def add_audio(self, size: int, now: float) -> bool:
        """Count audio that came, and return whether it is the first."""
        is_first = self.first_audio is None
        if is_first:
            self.first_audio = now
        self.received += size
        return is_first

    def close_turn(self) -> None:
        """Close the last turn: texts that follow have other settings."""
        if self.turns:
            self.turns[-1].is_closed = True

    def flush(self) -> None:
        """Record that all its texts are there."""
        self.flushed = True
        self.close_turn()

    def fail_plain(self) -> None:
        """Record a failure in the plain dialect: drop what is left, and start anew with what the client adds."""
        self.turns.clear()
        self.received, self.failed, self.was_sent = 0, True, False


class Contexts:
    """The contexts that have not ended, in the order of their first text.

    Mutable: ``_queue``; ``_by_id``, those of them that have an id; ``_ended``, the ids that are used up.
    """

    def __init__(self, reports: deque[TurnReport], bytes_per_second: int) -> None:
        """Create an empty queue.

        Args:
            reports: receives a report of each context that ends.
            bytes_per_second: of audio; 0 if that is not known.
        """
        self._reports = reports
        self._bytes_per_second = bytes_per_second
        self._queue: deque[Context] = deque()
        self._by_id: dict[str, Context] = {}
        self._ended: dict[str, None] = {}

    def __repr__(self) -> str:
        return repr(list(self._queue))

    def __iter__(self) -> Iterator[Context]:
        return iter(tuple(self._queue))

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def head(self) -> Context | None:
        """The context that is delivered now, or next."""
        return self._queue[0] if self._queue else None

    @property
    def last(self) -> Context | None:
        """The newest context."""
        return self._queue[-1] if self._queue else None

    @property
    def characters_kept(self) -> int:
        """How many characters are kept. Each context counts as some, too."""
        return sum(context.characters_kept + _CONTEXT_COUNTS_AS for context in self._queue)

    def get(self, context_id: str) -> Context | None:
        """Return the context of an id, unless it has ended or never began."""
        return self._by_id.get(context_id)

    def has_ended(self, context_id: str) -> bool:
        """Return whether the context of an id has ended."""
        return context_id in self._ended

    def begin(self, context_id: str | None, now: float) -> Context:
        """Add a context after all others."""
        context = Context(context_id, began=now, touched=now)
        self._queue.append(context)
        if context_id is not None:
            self._by_id[context_id] = context
        return context

    def end(self, context: Context, outcome: str) -> None:
        """Remove a context and report its outcome. Its id cannot be used again."""
        seconds = context.received / self._bytes_per_second if self._bytes_per_second else 0.0
        self._reports.append(
            TurnReport("context", outcome, context.began, context.first_audio, context.characters, seconds)
        )
        if context is self._queue[0]:
            self._queue.popleft()
        else:
            self._queue.remove(context)
        if context.id is not None:
            del self._by_id[context.id]
            self._ended[context.id] = None
            if len(self._ended) > _IDS_KEPT:
                del self._ended[next(iter(self._ended))]

    def end_all(self, outcome: str) -> None:
        """Remove all contexts."""
        for context in self:
            self.end(context, outcome)
