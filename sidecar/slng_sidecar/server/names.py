"""Models and voices under the names that OpenAI's clients know."""

from __future__ import annotations

from slng_sidecar.config import Settings
from slng_sidecar.protocol.route import Kind

OPENAI_VOICES = frozenset(
    {"alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse"}
)
"""They name no voice of any model here, so they stand for the configured one."""


def model_of(name: str | None, kind: Kind, settings: Settings) -> str:
    """Give the route for a model's name: an alias, itself where it has a ``/``, else the configured default."""
    default = settings.slng_stt_model if kind == "stt" else settings.slng_tts_model
    if not name:
        return default
    return settings.sidecar_model_aliases.get(name) or (name if "/" in name else default)


def voice_of(name: str | None, settings: Settings) -> str | None:
    """Give the voice for a voice's name: an alias, the configured one for OpenAI's names, else itself."""
    if not name:
        return settings.slng_tts_voice
    return settings.sidecar_voice_aliases.get(name) or (settings.slng_tts_voice if name in OPENAI_VOICES else name)


def ignored_header(names: list[str]) -> dict[str, str]:
    """Give the header that says which fields of a request were not acted on."""
    shown = [name for name in sorted(names) if name.isascii() and name.isprintable() and len(name) <= 60]
    return {"X-Ignored": ", ".join(shown[:20])} if shown else {}
