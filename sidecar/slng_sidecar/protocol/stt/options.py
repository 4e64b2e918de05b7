"""The settings of an STT session."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class SttOptions:
    """What the operator and the request fix for one STT session. Times are seconds.

    Attributes:
        model: the route of the first connection.
        own_provider_key: whether the client sent a provider key, which hosted models refuse.
        confidence_threshold: transcripts with a lower confidence are dropped.
        confidence_scope: which transcripts the threshold applies to.
        replay_seconds: how much audio is kept for a replay.
        final_lag: without word times, audio sent less than this before a final counts as not covered by it.
        finalize_timeout: how long a ``finalize`` may wait for its answer.
        reconnect_seconds: how long an outage of upstream may last.
        rotate_seconds: the age at which a connection is replaced.
        init_timeout: how long the client may take to send its ``init``.
        close_timeout: how long a close may take.
        jitter: returns a number from 0 to 1, which spreads the delays before a reconnect.
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
