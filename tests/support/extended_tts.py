"""A TTS session of the extended dialect for tests."""

from __future__ import annotations

from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.tts.dialects import ExtendedTts
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine
from slng_sidecar.sessions.delivery import decodable_encodings

from support.conversation import READY, Conversation, Step, dial, down, up

INIT: dict[str, Any] = {"type": "init", "voice": "v", "config": {"encoding": "linear16", "sample_rate": 16_000}}
FLUSH = {"type": "flush"}
CLEAR = {"type": "clear"}
CLOSE = {"type": "close"}
AUDIO_END = {"type": "audio_end"}
CLEARED = {"type": "cleared"}
QUIET = 0.1
MS = bytes(32)
"""A millisecond of audio."""
BUSY = GatewayError("not_ready", "busy", status=503)
NO_SUCH_VOICE = GatewayError("config_error", "no such voice", status=400)


def text(name: str, words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "context_id": name, "text": words, **fields}


def flush(name: str) -> dict[str, Any]:
    return {"type": "flush", "context_id": name}


def clear(name: str) -> dict[str, Any]:
    return {"type": "clear", "context_id": name}


def update(number: str, **fields: Any) -> dict[str, Any]:
    return {"type": "update", "id": number, **fields}


def words(text: str, connection: int = 0) -> Step:
    """Return the step that sends a text upstream."""
    return up({"type": "text", "text": text}, connection)


def start(name: str) -> Step:
    return down(
        {"type": "audio_start", "context_id": name, "sample_rate": 16_000, "encoding": "linear16", "channels": 1}
    )


def end(name: str, reason: str = "completed", ms: int = 0, first: int | None = None) -> Step:
    frame = {"type": "audio_end", "context_id": name, "reason": reason, "duration_ms": ms}
    return down(frame if first is None else {**frame, "first_audio_ms": first})


def updated(
    number: str,
    applied: dict[str, Any] | None = None,
    unchanged: tuple[str, ...] = (),
    rejected: dict[str, str] | None = None,
) -> Step:
    fields = {"applied": applied or {}, "unchanged": list(unchanged), "rejected": rejected or {}}
    return down({"type": "updated", "id": number, **fields})


def status(state: str, cause: str, attempt: int, gap_ms: int = 0) -> Step:
    return down({"type": "status", "state": state, "cause": cause, "attempt": attempt, "gap_ms": gap_ms})


def new(**options: Any) -> Conversation:
    options.setdefault("jitter", lambda: 0.5)
    options.setdefault("model", "slng/deepgram/aura:2-en")
    return Conversation(TtsMachine(TtsOptions(**options), ExtendedTts("1.2.3", "7", decodable_encodings())))


def opening(init: dict[str, Any] = INIT, **options: Any) -> Conversation:
    talk = new(**options)
    assert talk.client(init) == [dial(0)]
    return talk


def live(init: dict[str, Any] = INIT, **options: Any) -> Conversation:
    talk = opening(init, **options)
    assert talk.ready() == [down({**READY, "sidecar": {"version": "1.2.3", "session": "7"}})]
    return talk


def speaking(name: str = "a", **options: Any) -> Conversation:
    """Return a session that has sent its first context upstream completely and delivered some of its audio."""
    talk = live(**options)
    assert talk.client(text(name, "one"), flush(name)) == [words("one"), up(FLUSH)]
    assert talk.upstream(MS) == [start(name), down(MS)]
    return talk
