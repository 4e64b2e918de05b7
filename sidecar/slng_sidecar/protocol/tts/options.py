"""The settings of a TTS session."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TtsOptions:
    """What the operator and the request fix for one TTS session. Times are seconds.

    Attributes:
        model: the route that the client asked for.
        own_provider_key: whether the client sent a provider key, which hosted models refuse.
        flush: whether the end of a turn is a message of its own or a field of its last text.
        max_text: the most characters of one text.
        context_idle: how long a context may stay without another text or its flush.
        init_timeout: how long the client may take to send its ``init``.
        first_audio_timeout: how long the first audio of a turn may take.
        terminal_timeout: how long a turn may stay silent after its first audio.
        close_timeout: how long a close may take.
        reconnect_seconds: how long an outage of upstream may last.
        rotate_seconds: the age at which an idle connection is closed; None for never.
        standby: whether standby connections are held, so that another connection may be at hand.
        jitter: returns a number from 0 to 1, which spreads the delays before a reconnect.
    """

    model: str = ""
    own_provider_key: bool = False
    flush: Literal["standalone", "inline"] = "standalone"
    max_text: int = 10_000
    context_idle: float = 60
    init_timeout: float = 30
    first_audio_timeout: float = 30
    terminal_timeout: float = 15
    close_timeout: float = 5
    reconnect_seconds: float = 60
    rotate_seconds: float | None = None
    standby: bool = False
    jitter: Callable[[], float] = random.random
