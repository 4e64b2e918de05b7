"""What was heard and is not yet transcribed: the script of an STT connection.

Pure: no clock, no socket. Positions are bytes of 16-bit mono PCM, counted over the service's whole life.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class SessionInit:
    """The settings of a stretch: what ``init`` has to say where a connection begins in it."""

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
    """Audio, finalizes and updates in their order, kept until the sidecar is done with them.

    ``_sent`` went out on this connection and goes again on the next one; ``_unsent`` follows it. ``_session_init``
    holds where the oldest of both begins. ``_base`` is the position of this connection's first byte.
    """

    def __init__(self, session_init: SessionInit, sample_rate: int, keep_seconds: float) -> None:
        """Start empty.

        Args:
            voicing: the settings to begin with.
            keep_seconds: how much audio is kept at most; beyond it the oldest is given up.
        """
        self._session_init = session_init
        self._bytes_per_ms = sample_rate * 2 / 1000
        self._limit = int(keep_seconds * 1000 * self._bytes_per_ms)
        self._sent: deque[_Entry] = deque()
        self._unsent: deque[_Entry] = deque()
        self._answered: set[str] = set()
        self._heard = self._covered = self._base = 0
        self._kept = self._lost = 0
        self._connected = self._ending = False

    def __repr__(self) -> str:
        return f"SttReplayQueue(kept={self.kept_ms} ms, sent={len(self._sent)}, unsent={len(self._unsent)})"

    @property
    def kept_ms(self) -> int:
        """How much audio is kept, in milliseconds."""
        return self._ms(self._kept)

    def append(self, audio: bytes) -> None:
        """Add audio that was heard."""
        self._unsent.append(_Audio(self._heard, audio))
        self._heard += len(audio)
        self._kept += len(audio)
        while self._kept > self._limit:
            self._give_up_oldest()

    def finalize(self, finalize_id: str) -> None:
        """Ask, at this place in the audio, for what was said so far."""
        self._unsent.append(_Finalize(finalize_id))

    def update(self, message: dict[str, Any], after: SessionInit) -> None:
        """Change the settings at this place in the audio; ``after`` is what then holds."""
        self._unsent.append(_Update(json.dumps(message), after))

    def end(self) -> None:
        """Ask, after all this, for what is left and the close."""
        self._ending = True

    def clear(self) -> None:
        """Give up all that is kept; settings stay as they were last asked for."""
        for entry in (*self._sent, *self._unsent):
            if isinstance(entry, _Update):
                self._session_init = entry.after
            elif isinstance(entry, _Audio):
                self._lost += len(entry.data)
        self._sent.clear()
        self._unsent.clear()
        self._kept = 0

    def take_lost_ms(self) -> int:
        """Give how much audio was given up while there was no sidecar, since the last call, in milliseconds."""
        lost, self._lost = self._lost, 0
        return self._ms(lost)

    # What the sidecar says.

    def covered(self, milliseconds: float) -> None:
        """Hear that audio of this connection up to here is done with."""
        position = self._base + int(milliseconds * self._bytes_per_ms) // 2 * 2
        self._covered = max(self._covered, min(position, self._heard))
        self._forget()

    def answered(self, finalize_id: str) -> None:
        """Hear that a finalize has its answer."""
        self._answered.add(finalize_id)
        self._forget()

    # The script of a connection.

    def opening(self) -> tuple[str, dict[str, Any]]:
        """Begin a connection with what is not done with; give its model and ``init``."""
        again = (*self._sent, *self._unsent)
        self._sent.clear()
        self._unsent.clear()
        self._base = self._heard
        for entry in again:
            if isinstance(entry, _Audio):
                done = min(max(self._covered - entry.start, 0), len(entry.data))
                entry.data, entry.start = entry.data[done:], entry.start + done
                self._kept -= done
                if not entry.data:
                    continue
                self._base = min(self._base, entry.start)
            elif isinstance(entry, _Update) and not self._unsent:
                self._session_init = entry.after
                continue
            self._unsent.append(entry)
        self._connected = True
        return self._session_init.model, self._session_init.init

    def next(self) -> str | bytes | None:
        """Give what is to be sent next."""
        if not self._unsent:
            if not self._ending:
                return None
            self._ending = False
            return '{"type": "close"}'
        entry = self._unsent.popleft()
        self._sent.append(entry)
        if isinstance(entry, _Audio):
            return entry.data
        if isinstance(entry, _Update):
            return entry.message
        return json.dumps({"type": "finalize", "id": entry.id})

    def closed(self) -> None:
        """Hear that the connection is gone."""
        self._connected = False

    def _forget(self) -> None:
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

    def _give_up_oldest(self) -> None:
        """Give up the oldest audio; what stands before it waits for nothing any more."""
        for entries in (self._sent, self._unsent):
            for index, entry in enumerate(entries):
                if isinstance(entry, _Audio):
                    del entries[index]
                    self._kept -= len(entry.data)
                    if not self._connected or entries is self._unsent:
                        self._lost += len(entry.data)
                    return

    def _ms(self, count: int) -> int:
        return round(count / self._bytes_per_ms)
