"""The voices in the catalogue, and how each of them sounds."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

from slng_sidecar.engines.interface import Timbre


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of the catalogue."""

    id: str
    language: str
    gender: Literal["feminine", "masculine"]
    timbre: Timbre

    def as_dict(self) -> dict[str, str]:
        """Return the voice as the catalogue lists it."""
        return {"id": self.id, "name": self.id, "language": self.language, "gender": self.gender}


_AURA = (
    Voice("aura-2-thalia-en", "en", "feminine", "neutral"),
    Voice("aura-2-helena-en", "en", "feminine", "bright"),
    Voice("aura-2-luna-en", "en", "feminine", "bright"),
    Voice("aura-2-apollo-en", "en", "masculine", "deep"),
    Voice("aura-2-orion-en", "en", "masculine", "deep"),
)
_RIME = (Voice("astra", "en", "feminine", "neutral"),)
_VOICES = {
    "deepgram/aura:2": (*_AURA, Voice("aura-2-celeste-es", "es", "feminine", "neutral")),
    "slng/deepgram/aura:2-en": _AURA,
    "slng/rime/arcana:3-en": _RIME,
}
_TIMBRES: dict[str, Timbre] = {voice.id: voice.timbre for voices in _VOICES.values() for voice in voices}
_OTHERS: tuple[Timbre, ...] = ("neutral", "deep", "bright")


def voices_of(model: str) -> tuple[Voice, ...]:
    """Return the voices of a model. A model without an entry accepts any name."""
    return _VOICES.get(model, ())


def timbre_of(voice: str | None) -> Timbre:
    """Return how a voice sounds. Any name has one timbre, and no name the neutral one."""
    if not voice:
        return "neutral"
    return _TIMBRES.get(voice) or _OTHERS[zlib.crc32(voice.encode()) % len(_OTHERS)]
