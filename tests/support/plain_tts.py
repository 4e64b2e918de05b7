"""A TTS session of the plain dialect for tests."""

from __future__ import annotations

from typing import Any

from slng_sidecar.protocol.tts.dialects import PlainTts, TerminalForm
from slng_sidecar.protocol.tts.options import TtsOptions
from slng_sidecar.protocol.tts.session import TtsMachine

from support.conversation import READY, Conversation, dial, down, up

INIT = {"type": "init", "voice": "v", "config": {"encoding": "linear16", "sample_rate": 24_000}}
FLUSH = {"type": "flush"}
CLEAR = {"type": "clear"}
CLOSE = {"type": "close"}
AUDIO_END = {"type": "audio_end"}
FLUSHED = {"type": "flushed"}
CLEARED = {"type": "cleared"}
QUIET = 0.1


def text(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **fields}


def new(terminal_form: TerminalForm = "upstream", **options: Any) -> Conversation:
    return Conversation(TtsMachine(TtsOptions(**options), PlainTts(terminal_form)))


def opening(**options: Any) -> Conversation:
    talk = new(**options)
    assert talk.client(INIT) == [dial(0)]
    return talk


def live(**options: Any) -> Conversation:
    talk = opening(**options)
    assert talk.ready() == [down(READY)]
    return talk


def speaking(words: str = "one", **options: Any) -> Conversation:
    """Return a session that has sent its first turn upstream completely and delivered some of its audio."""
    talk = live(**options)
    assert talk.client(text(words), FLUSH) == [up(text(words)), up(FLUSH)]
    assert talk.upstream(b"sound") == [down(b"sound")]
    return talk
