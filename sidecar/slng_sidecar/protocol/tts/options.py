"""What a TTS session is opened with."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TtsOptions:
    """What a session is opened with, and what the operator set; times are seconds.

    Attributes:
        model: the route that the client asked for.
        own_provider_key: whether the client brought a provider key, which no hosted model takes.
        rotate_seconds: the age at which an idle line is given up; None for never.
        standby: whether spare connections are held, so that another one may be at hand.
        jitter: gives 0 to 1, for the delays of redialling.
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
