"""What a client has said of a context, and how far each part of it has come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.protocol.messages import Terminal
from slng_sidecar.protocol.reports import TurnReport
from slng_sidecar.protocol.tts.settings import SettingsRevision

# How many names of ended contexts are known for certain; a call of an hour has fewer.
_NAMES_KEPT = 10_000
# What a context counts among the characters that a client may be ahead by.
_CONTEXT_COUNTS = 64


@dataclass(slots=True, eq=False)
class Turn:
    """Texts of one context that are said with the same settings, on one line.

    ``texts`` are kept until the first sound, so that they can be said again; the first ``sent`` of them are upstream.

    Attributes:
        closed: whether all its texts are there: its context was flushed, or the settings changed.
        line: the connection that carries it; None while it waits for one.
        progress: when upstream last showed a sign of it.
        doubted: a terminal that came before any sound, on a line that had had a turn, and when it counts after all.
    """

    revision: SettingsRevision
    texts: list[dict[str, Any]] = field(default_factory=list)
    closed: bool = False
    pooled: int | None = None
    sent: int = 0
    flush_sent: bool = False
    sounded: bool = False
    retried: bool = False
    progress: float = 0.0
    doubted: tuple[Terminal, float] | None = None

    @property
    def blank(self) -> bool:
        """Whether there is nothing in it to say, so far."""
        return not self.sent and not self.sounded and all(text["text"].isspace() for text in self.texts)

    def next_messages(self, *, inline: bool, now: float) -> list[dict[str, Any]]:
        """Give what is to be sent on its line now; ``inline``: the end is said on the last text."""
        messages: list[dict[str, Any]] = []
        # Where the end is said on the last text, that text waits until it is known to be the last.
        sendable = len(self.texts) if self.closed or not inline else len(self.texts) - 1
        while self.sent < sendable:
            message = self.texts[self.sent]
            self.sent += 1
            if inline and self.closed and self.sent == len(self.texts):
                message = {**message, "flush": True}
                self.flush_sent = True
            messages.append(message)
        if self.closed and not self.flush_sent and self.sent == len(self.texts):
            self.flush_sent = True
            messages.append({"type": "flush"})
        if messages:
            self.progress = now
        if self.sounded:
            self.let_go()
        return messages

    def sounds(self, now: float) -> None:
        """Note a sound of it: what is upstream is not to be said again."""
        self.let_go()
        self.sounded, self.progress, self.doubted = True, now, None

    def let_go(self) -> None:
        """Forget the texts that are upstream."""
        del self.texts[: self.sent]
        self.sent = 0

    def again(self, *, counts: bool) -> None:
        """Begin anew, on another line; where it ``counts`` and any of it was upstream, that is done once."""
        self.retried = counts and self.sent > 0
        self.pooled, self.sent, self.flush_sent, self.doubted = None, 0, False, None


@dataclass(slots=True, eq=False)
class Context:
    """A turn: its parts, oldest first; those that were said are gone.

    Attributes:
        name: the client's ``context_id``; None in the plain dialect.
        flushed: whether the client has said all of it.
        failed: in the plain dialect, whether the client was told of a failure; what it still adds is said, and its
            flush ends it.
        said: whether any of it went upstream.
        received, delivered: bytes of sound that came for it, and that the client got.
        characters: of all its texts.
        first_sound: when the first sound came for it.
        touched: when the client last added to it.
    """

    name: str | None
    began: float
    touched: float
    turns: deque[Turn] = field(default_factory=deque)
    flushed: bool = False
    failed: bool = False
    said: bool = False
    received: int = 0
    delivered: int = 0
    characters: int = 0
    first_sound: float | None = None

    def __repr__(self) -> str:
        sent, texts = sum(turn.sent for turn in self.turns), sum(len(turn.texts) for turn in self.turns)
        return f"<{sent}/{texts} texts{' flushed' if self.flushed else ''}, {self.received} bytes>"

    @property
    def turn(self) -> Turn | None:
        """The one that is being said, or is next."""
        return self.turns[0] if self.turns else None

    @property
    def held(self) -> int:
        """How many characters are kept."""
        return sum(len(text["text"]) for turn in self.turns for text in turn.texts)

    def add(self, text: dict[str, Any], revision: SettingsRevision, now: float) -> None:
        """Add a text, to be said with the settings of ``revision``."""
        if not self.turns or self.turns[-1].closed:
            self.turns.append(Turn(revision))
        self.turns[-1].texts.append(text)
        self.characters += len(text["text"])
        self.touched = now

    def close_turn(self) -> None:
        """Let the texts so far be said on their own."""
        if self.turns:
            self.turns[-1].closed = True

    def flush(self) -> None:
        """Note that all its texts are there."""
        self.flushed = True
        self.close_turn()


class Contexts:
    """The contexts that have not ended, in the order of their first text.

    Mutable: ``_queue``; ``_named``, those of them that have names; ``_ended``, the names that are used up.
    """

    def __init__(self, reports: deque[TurnReport], bytes_per_second: int) -> None:
        """Begin without any.

        Args:
            turns: gets a report of each that ends.
            bytes_per_second: of sound; 0 where that is not known.
        """
        self._reports = reports
        self._bytes_per_second = bytes_per_second
        self._queue: deque[Context] = deque()
        self._named: dict[str, Context] = {}
        self._ended: dict[str, None] = {}

    def __repr__(self) -> str:
        return repr(list(self._queue))

    def __iter__(self) -> Iterator[Context]:
        return iter(tuple(self._queue))

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def head(self) -> Context | None:
        """The one that is delivered now, or next."""
        return self._queue[0] if self._queue else None

    @property
    def last(self) -> Context | None:
        return self._queue[-1] if self._queue else None

    @property
    def held(self) -> int:
        """How much is kept, in characters; a context counts as some, too."""
        return sum(context.held + _CONTEXT_COUNTS for context in self._queue)

    def named(self, name: str) -> Context | None:
        return self._named.get(name)

    def is_over(self, name: str) -> bool:
        """Tell whether the context of that name has ended."""
        return name in self._ended

    def begin(self, name: str | None, now: float) -> Context:
        """Begin a context after all others."""
        context = Context(name, began=now, touched=now)
        self._queue.append(context)
        if name is not None:
            self._named[name] = context
        return context

    def end(self, context: Context, outcome: str) -> None:
        """Take a context out; its name is not used again."""
        seconds = context.received / self._bytes_per_second if self._bytes_per_second else 0.0
        self._reports.append(
            TurnReport(
                "context", outcome, context.began, context.first_sound, context.characters, audio_seconds=seconds
            )
        )
        if context is self._queue[0]:
            self._queue.popleft()
        else:
            self._queue.remove(context)
        if context.name is not None:
            del self._named[context.name]
            self._ended[context.name] = None
            if len(self._ended) > _NAMES_KEPT:
                del self._ended[next(iter(self._ended))]

    def clear(self, outcome: str) -> None:
        """Take all out."""
        for context in self:
            self.end(context, outcome)
