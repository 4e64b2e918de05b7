"""Models and voices under the names that OpenAI's clients use."""

from __future__ import annotations

from slng_sidecar.config import Settings
from slng_sidecar.protocol.route import Kind

OPENAI_VOICES = frozenset(
    {"alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"}
)
"""OpenAI's voices. No model here has them, so they stand for the configured voice."""


def model_of(name: str | None, kind: Kind, settings: Settings) -> str:
    """Return the route of a model: that of an alias, the name itself if it has a ``/``, or the default model."""
    default = settings.slng_stt_model if kind == "stt" else settings.slng_tts_model
    if not name:
        return default
    return settings.sidecar_model_aliases.get(name) or (name if "/" in name else default)


def voice_of(name: str | None, settings: Settings) -> str | None:
    """Return the voice for a name: that of an alias, the configured voice for OpenAI's names, or the name itself."""
    if not name:
        return settings.slng_tts_voice
    return settings.sidecar_voice_aliases.get(name) or (settings.slng_tts_voice if name in OPENAI_VOICES else name)


def ignored_header(names: list[str]) -> dict[str, str]:
    """Return the header that lists the fields of a request which were ignored."""
    shown = [name for name in sorted(names) if name.isascii() and name.isprintable() and len(name) <= 60]
    return {"X-Ignored": ", ".join(shown[:20])} if shown else {}
