"""An STT session of the extended dialect for tests."""

from __future__ import annotations

from array import array
from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.stt.dialects import ExtendedStt
from slng_sidecar.protocol.stt.options import SttOptions
from slng_sidecar.protocol.stt.session import SttMachine

from support.conversation import Conversation, Step, dial, down

INIT = {"type": "init", "config": {"sample_rate": 16_000, "language": "en"}}
FINALIZE, CLOSE = {"type": "finalize"}, {"type": "close"}
NO_SLOT = GatewayError("rate_limit", "too many concurrent connections")


def speech(ms: int, level: int = 8000) -> bytes:
    """Return audio at the level of speech."""
    return array("h", [level, -level] * (ms * 8)).tobytes()


def silence(ms: int) -> bytes:
    return bytes(ms * 32)


def final(text: str, *spans: tuple[float, float], **fields: Any) -> dict[str, Any]:
    """Return a final. ``spans`` are the word times, in seconds of the connection's audio."""
    words = [{"word": w, "start": s[0], "end": s[1]} for w, s in zip(text.split(), spans, strict=False)]
    return {"type": "final_transcript", "transcript": text, **({"words": words} if words else {}), **fields}


def live(**options: Any) -> Conversation:
    options.setdefault("jitter", lambda: 0.5)
    talk = Conversation(SttMachine(SttOptions(**options), ExtendedStt("1.2.3", "7")))
    assert talk.client(INIT) == [dial(0)]
    assert talk.ready(slng_request_id="r") == [
        down(
            {
                "type": "ready",
                "session_id": "s1",
                "slng_request_id": "r",
                "sidecar": {"version": "1.2.3", "session": "7"},
            }
        )
    ]
    return talk


def to_client(steps: list[Step], kind: str) -> list[dict[str, Any]]:
    return [what[1] for what in steps if what[0] == "down" and what[1]["type"] == kind]


def sent(steps: list[Step], connection: int) -> bytes:
    return b"".join(what[2] for what in steps if what[:2] == ("up", connection) and isinstance(what[2], bytes))


def finalized(name: str | None, outcome: str, covered_ms: int) -> Step:
    return down({"type": "finalized", "finalize_id": name, "outcome": outcome, "covered_ms": covered_ms})
