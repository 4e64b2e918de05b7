"""What an STT session is told from outside."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SttOptions:
    """What STT sessions are told from outside; times are seconds.

    Attributes:
        model: the route of the first connection.
        own_provider_key: whether the client brought a provider key, which no hosted model takes.
        jitter: gives 0 to 1, for the delays of redialling.
    """

    model: str = "slng/deepgram/nova:3-en"
    own_provider_key: bool = False
    confidence_threshold: float = 0.5
    confidence_scope: Literal["all", "partials", "off"] = "all"
    replay_seconds: float = 30
    final_lag: float = 2
    finalize_timeout: float = 3
    reconnect_seconds: float = 60
    rotate_seconds: float = 1500
    init_timeout: float = 30
    close_timeout: float = 5
    jitter: Callable[[], float] = random.random
