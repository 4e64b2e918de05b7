"""Settings that a client changes within a session: which fields of an ``update`` are possible, and what they change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.protocol.route import BYOK_REFUSED, check_model, is_hosted

_FIXED = ("sample_rate", "encoding")


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What an upstream connection is opened with: the model and the ``init`` message."""

    model: str
    init: dict[str, Any]


@dataclass(slots=True)
class Update:
    """One parsed ``update`` of the client.

    Attributes:
        wanted: the fields that are possible, by name; those of ``config`` by their own names.
        rejected: the fields that are not, and why.
    """

    id: str | None
    wanted: dict[str, Any] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)


def read_update(message: dict[str, Any], fields: tuple[str, ...], *, own_provider_key: bool) -> Update:
    """Parse an ``update``.

    Args:
        fields: the top-level fields of this kind of session besides ``config``: ``model``, and ``voice`` for TTS.
        own_provider_key: whether the client sent a provider key, which hosted models refuse.
    """
    given = message.get("id")
    update = Update(given if isinstance(given, str) else None)
    config = message.get("config")
    if config is not None and not isinstance(config, dict):
        update.rejected["config"] = "it must be an object"
        config = None
    for name, value in (config or {}).items():
        if name in _FIXED:
            update.rejected[name] = "it is fixed for the session; connect again to change it"
        elif name in fields:
            update.rejected[name] = "it belongs beside config, not in it"
        else:
            update.wanted[name] = value
    for name in fields:
        if name not in message:
            continue
        value = message[name]
        if not isinstance(value, str):
            update.rejected[name] = "it must be a string"
        elif name == "model" and (reason := _model_refused(value, own_provider_key)) is not None:
            update.rejected[name] = reason
        else:
            update.wanted[name] = value
    return update


def changed(settings: ConnectionSettings, wanted: dict[str, Any]) -> tuple[ConnectionSettings, list[str]]:
    """Return the settings with the wanted fields applied, and the names of the fields that change nothing.

    A ``config`` field that is null is removed.
    """
    config = dict(settings.init.get("config") or {})
    init, model, unchanged = dict(settings.init), settings.model, []
    for name, value in wanted.items():
        place = init if name == "voice" else config
        if name == "model":
            if value == model:
                unchanged.append(name)
            model = value
        elif value is None:
            if place.pop(name, None) is None:
                unchanged.append(name)
        else:
            if place.get(name) == value:
                unchanged.append(name)
            place[name] = value
    init["config"] = config
    return ConnectionSettings(model, init), unchanged


def _model_refused(model: str, own_provider_key: bool) -> str | None:
    try:
        check_model(model)
    except GatewayError as error:
        return error.message
    return BYOK_REFUSED if own_provider_key and is_hosted(model) else None
