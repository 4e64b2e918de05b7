"""What a simulator is told when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.engines.recognizers import Speech
from slng_sidecar.simulator.profiles import FAST, REALISTIC

REFUSED_KEY = "bad"
"""This key is refused whatever keys are taken."""

BAD_PROVIDER_KEY = "bad-provider-key"
"""A provider key (BYOK) that the provider refuses."""


@dataclass(frozen=True, slots=True)
class SimulatorOptions:
    """How the simulator behaves; ``profile`` and faults say the rest.

    Attributes:
        speech: ``auto`` takes real voices and ears where they are installed, else a tone and the script; ``real``
            insists on them; ``signal`` is the numbered signal; ``tone`` a tone and the script.
        keys: the API keys that are taken; empty takes every one but ``bad``.
        regional: behave as a regional gateway, which has no HTTP bridge (405). A Host header of
            ``{world_part}.api.slng.ai`` or ``api.slng.ai`` decides this by itself.
        unknown_status: what an unknown model is refused with at the upgrade; 0 takes it.
        undeployed_status: what a model without a deployment is refused with.
        max_connections: more WebSockets at once are refused; 0 is no limit.
        manners: fields of ``RouteProfile`` for all routes. They come before what is particular to a route.
        overrides: fields of ``RouteProfile`` that come after what is particular to a route.
        faults: the script in force from the start.
        script: what the scripted ear hears, a line for each utterance.
        tcp: let connections come through a TCP proxy, which the fault ``tcp`` needs.
        keep_audio: bytes of a connection's audio that its record keeps.
    """

    speech: Speech = "auto"
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
        """Give options for tests: everything at once, the numbered signal, all audio kept.

        Args:
            fields: other options; an unknown one that is a field of ``RouteProfile`` goes to ``overrides``.
        """
        own = {name: fields.pop(name) for name in tuple(fields) if name in cls.__slots__}
        own["overrides"] = {**own.get("overrides", {}), **fields}
        own.setdefault("profile", dict(FAST))
        return cls(speech=speech, keep_audio=keep_audio, **own)
