"""An STT session of the plain dialect for tests."""

from __future__ import annotations

from typing import Any

from slng_sidecar.protocol.stt.dialects import PlainStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine

from support.conversation import Conversation, dial

INIT = {"type": "init", "config": {"sample_rate": 16_000}}
FINALIZE = {"type": "finalize"}
CLOSE = {"type": "close"}
SECOND = 32_000  # bytes


def final(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "final_transcript", "transcript": text, **fields}


def partial(text: str, **fields: Any) -> dict[str, Any]:
    return {"type": "partial_transcript", "transcript": text, **fields}


def new(**options: Any) -> Conversation:
    return Conversation(SttMachine(SttOptions(**options), PlainStt()))


def opening(**options: Any) -> Conversation:
    talk = new(**options)
    assert talk.client(INIT) == [dial(0)]
    return talk


def live(**options: Any) -> Conversation:
    talk = opening(**options)
    talk.ready()
    return talk
