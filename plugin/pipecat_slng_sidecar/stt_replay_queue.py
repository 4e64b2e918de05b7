"""The replay queue of an STT connection: audio, finalizes and updates that the sidecar has not settled yet.

The module does no I/O and reads no clock. Positions are bytes of 16-bit mono PCM, counted from the service's start.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionInit:
    """Settings of a session, as a connection that starts with them sends them.

    Attributes:
        model: the SLNG route, which is part of the URL.
        init: the ``init`` message.
    """

    model: str
    init: dict[str, Any]


@dataclass(slots=True)
class _Audio:
    start: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(slots=True)
class _Finalize:
    id: str


@dataclass(slots=True)
class _Update:
    message: str
    after: SessionInit


_Entry = _Audio | _Finalize | _Update


class SttReplayQueue:
    """Audio, finalizes and updates in order, kept until the sidecar has settled them.

    Audio is settled when the sidecar has covered it, and a finalize when the sidecar has answered it. An update is
    settled when everything before it is.

    Mutable: ``_sent``, the entries sent on the current connection, which the next one sends again; ``_unsent``, the
    entries after those; ``_session_init``, the settings that apply before the oldest entry; ``_answered``, the ids of
    answered finalizes that are still queued; ``_end``, the position after the newest audio; ``_covered``, the position
    up to which audio is covered; ``_base``, the position of the first byte of the current connection; ``_kept``, the
    bytes of audio in the queue; ``_lost``, the bytes discarded without a connection since ``pop_lost_ms``;
    ``_is_connected``; ``_close_requested``.
    """

    def __init__(self, session_init: SessionInit, sample_rate: int, keep_seconds: float) -> None:
        """Create an empty queue.

        Args:
            session_init: the settings to start with.
            sample_rate: samples per second of the audio, in Hz.
            keep_seconds: how much audio to keep at most. Beyond that, the oldest is discarded.
        """
        self._session_init = session_init
        self._bytes_per_ms = sample_rate * 2 / 1000
        self._limit = int(keep_seconds * 1000 * self._bytes_per_ms)
        self._sent: deque[_Entry] = deque()
        self._unsent: deque[_Entry] = deque()
        self._answered: set[str] = set()
        self._end = self._covered = self._base = 0
        self._kept = self._lost = 0
        self._is_connected = self._close_requested = False

    def __repr__(self) -> str:
        return f"SttReplayQueue(kept={self.kept_ms} ms, sent={len(self._sent)}, unsent={len(self._unsent)})"

    @property
    def kept_ms(self) -> int:
        """How much audio the queue holds, in milliseconds."""
        return self._ms(self._kept)

    # Called by the service

    def append(self, audio: bytes) -> None:
        """Add audio. If the queue is full, discard the oldest audio."""
        self._unsent.append(_Audio(self._end, audio))
        self._end += len(audio)
        self._kept += len(audio)
        while self._kept > self._limit:
            self._discard_oldest()

    def finalize(self, finalize_id: str) -> None:
        """Add a finalize at this position in the audio."""
        self._unsent.append(_Finalize(finalize_id))

    def update(self, message: dict[str, Any], after: SessionInit) -> None:
        """Change the settings at this position in the audio.

        Args:
            message: the ``update`` message.
            after: the settings that apply to the audio that follows.
        """
        self._unsent.append(_Update(json.dumps(message), after))

    def request_close(self) -> None:
        """Send a ``close`` after everything else."""
        self._close_requested = True

    def discard_all(self) -> None:
        """Discard everything. The settings of the newest update apply from now on."""
        for entry in (*self._sent, *self._unsent):
            if isinstance(entry, _Update):
                self._session_init = entry.after
            elif isinstance(entry, _Audio):
                self._lost += len(entry.data)
        self._sent.clear()
        self._unsent.clear()
        self._kept = 0

    def pop_lost_ms(self) -> int:
        """Return how many milliseconds of audio were lost since the last call, and reset the count.

        Audio is lost if it was discarded before it was sent, or while there was no connection.
        """
        lost, self._lost = self._lost, 0
        return self._ms(lost)

    # Called for messages of the sidecar

    def mark_covered(self, milliseconds: float) -> None:
        """Remove audio that the sidecar has covered.

        Args:
            milliseconds: up to where the audio is covered, counted from the first byte of the current connection.
        """
        position = self._base + int(milliseconds * self._bytes_per_ms) // 2 * 2
        self._covered = max(self._covered, min(position, self._end))
        self._remove_settled()

    def mark_answered(self, finalize_id: str) -> None:
        """Remove a finalize that the sidecar has answered."""
        self._answered.add(finalize_id)
        self._remove_settled()

    # Called by the connection

    def begin_connection(self) -> tuple[str, dict[str, Any]]:
        """Queue again what is not settled, and return the model and the ``init`` of a new connection."""
        again = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        self._base = self._end
        for entry in again:
            if isinstance(entry, _Audio):
                done = min(max(self._covered - entry.start, 0), len(entry.data))
                entry.data, entry.start = entry.data[done:], entry.start + done
                self._kept -= done
                if not entry.data:
                    continue
                self._base = min(self._base, entry.start)
            elif isinstance(entry, _Update) and not self._unsent:
                # Nothing precedes this update, so its settings become part of the ``init``.
                self._session_init = entry.after
                continue
            self._unsent.append(entry)
        self._is_connected = True
        return self._session_init.model, self._session_init.init

    def next_message(self) -> str | bytes | None:
        """Return the next message to send, or ``None`` if there is none."""
        if not self._unsent:
            if not self._close_requested:
                return None
            self._close_requested = False
            return '{"type": "close"}'
        entry = self._unsent.popleft()
        self._sent.append(entry)
        if isinstance(entry, _Audio):
            return entry.data
        if isinstance(entry, _Update):
            return entry.message
        return json.dumps({"type": "finalize", "id": entry.id})

    def end_connection(self) -> None:
        """Record that the connection is closed."""
        self._is_connected = False

    def _remove_settled(self) -> None:
        while self._sent:
            entry = self._sent[0]
            if isinstance(entry, _Audio):
                if entry.end > self._covered:
                    return
                self._kept -= len(entry.data)
            elif isinstance(entry, _Update):
                self._session_init = entry.after
            elif entry.id in self._answered:
                self._answered.discard(entry.id)
            else:
                return
            self._sent.popleft()

    def _discard_oldest(self) -> None:
        """Discard the oldest audio. Audio that the current connection has sent does not count as lost."""
        for entries in (self._sent, self._unsent):
            for index, entry in enumerate(entries):
                if isinstance(entry, _Audio):
                    del entries[index]
                    self._kept -= len(entry.data)
                    if not self._is_connected or entries is self._unsent:
                        self._lost += len(entry.data)
                    return

    def _ms(self, count: int) -> int:
        return round(count / self._bytes_per_ms)
