"""What STT and TTS sessions read alike from a client: its ``init`` and the shape of its messages."""

from __future__ import annotations

from typing import Any

from slng_sidecar.protocol.errors import GatewayError

INIT_FIRST = 'The first message of a session is {"type":"init"}; '


def check_init(message: dict[str, Any]) -> dict[str, Any]:
    """Return the ``config`` of an ``init``; a field that is null counts as not given.

    Raises:
        GatewayError: ``config_error``, naming the field.
    """
    config = message.get("config")
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise GatewayError("config_error", 'In init, config must be an object such as {"sample_rate": 16000}.')
    rate = config.get("sample_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int) or not 1000 <= rate <= 384_000):
        raise GatewayError("config_error", "In init, config.sample_rate must be a number of Hz such as 16000.")
    encoding = config.get("encoding")
    if encoding is not None and not isinstance(encoding, str):
        raise GatewayError("config_error", "In init, config.encoding must be a word such as linear16.")
    return config


def init_overdue(seconds: float) -> GatewayError:
    """Give the error for a client that never sent its ``init``."""
    return GatewayError("bad_request", f"{INIT_FIRST}none came within {seconds:g} s.")


def second_init() -> GatewayError:
    """Give the error for an ``init`` after the first."""
    return GatewayError(
        "bad_request",
        "This session already had its init; this one was ignored. Connect again for other settings.",
        fatal=False,
    )


def base64_refused() -> GatewayError:
    """Give the error for audio sent as base64 in JSON: documented by SLNG, but refused by the live bridge."""
    return GatewayError(
        "unsupported_audio_format",
        "Audio is sent as binary WebSocket messages, not as base64 in JSON; SLNG does not take that either.",
        status=400,
        fatal=False,
    )
