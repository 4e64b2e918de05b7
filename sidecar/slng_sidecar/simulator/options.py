"""The options of a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.engines.selection import Speech
from slng_sidecar.simulator.profiles import FAST, REALISTIC

REFUSED_KEY = "bad"
"""This key is refused whatever keys are accepted."""

BAD_PROVIDER_KEY = "bad-provider-key"
"""A provider key (BYOK) that the provider refuses."""


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """How the simulator behaves, besides its route profiles and faults.

    Attributes:
        speech: the synthesizer and the recognizer, as ``Engines`` chooses them. ``auto`` uses real speech if it is
            installed, otherwise a tone and the script; ``real`` requires it; ``signal`` is the numbered signal;
            ``tone`` a tone and the script.
        synthesizer: the name of a synthesizer in place of what ``speech`` means.
        recognizer: the name of a recognizer, likewise.
        keys: the API keys that are accepted; if empty, every key but ``bad``.
        regional: whether it behaves as a regional gateway, which has no HTTP bridge (405). A Host header of
            ``{world_part}.api.slng.ai`` or ``api.slng.ai`` overrides this.
        unknown_status: the status that refuses an unknown model at the upgrade; 0 accepts it.
        undeployed_status: the status that refuses a model without a deployment.
        max_connections: the most WebSockets at once; 0 for no limit.
        profile: fields of ``RouteProfile`` for all routes. A route's own profile overrides them.
        overrides: fields of ``RouteProfile`` that override a route's own profile.
        faults: the script in force from the start.
        script: the lines of the scripted recognizer, one for each utterance.
        tcp: whether connections go through a TCP proxy, which the fault ``tcp`` needs.
        keep_audio: how many bytes of a connection's audio its record keeps.
    """

    speech: Speech = "auto"
    synthesizer: str | None = None
    recognizer: str | None = None
    keys: tuple[str, ...] = ()
    regional: bool = False
    unknown_status: int = 404
    undeployed_status: int = 502
    max_connections: int = 0
    profile: Mapping[str, Any] = field(default_factory=lambda: dict(REALISTIC))
    overrides: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Mapping[str, Any], ...] = ()
    script: tuple[str, ...] = ("hello there", "could you say that again", "thank you", "goodbye")
    tcp: bool = False
    keep_audio: int = 0

    @classmethod
    def fast(cls, speech: Speech = "signal", keep_audio: int = 64 << 20, **fields: Any) -> SimulatorOptions:
        """Return options for tests: no latency, the numbered signal, all audio kept.

        Args:
            fields: other options. Fields of ``RouteProfile`` go to ``overrides``.
        """
        own = {name: fields.pop(name) for name in tuple(fields) if name in cls.__slots__}
        own["overrides"] = {**own.get("overrides", {}), **fields}
        own.setdefault("profile", dict(FAST))
        return cls(speech=speech, keep_audio=keep_audio, **own)
