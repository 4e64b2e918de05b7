"""From a request to its target: model, gateway, region, keys and tracking ids."""

from __future__ import annotations

from typing import Any

from starlette.requests import HTTPConnection

from slng_sidecar.config import Settings
from slng_sidecar.keys import Secrets
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import dump
from slng_sidecar.protocol.route import (
    GLOBAL_GATEWAY,
    Kind,
    Target,
    check_byok,
    check_model,
    check_region,
    check_tracking_id,
    check_world_part,
    gateway_of_world_part,
)
from slng_sidecar.server.guard import bearer, is_token


def resolve_target(request: HTTPConnection, kind: Kind, model: str, settings: Settings, secrets: Secrets) -> Target:
    """Return everything that an upstream connection for a request is opened with.

    Raises:
        GatewayError: the request asks for something that is not possible. The error's status refuses it.
    """
    if b"%2f" in request.scope.get("raw_path", b"").lower():
        raise GatewayError(ErrorCode.BAD_REQUEST, "Write the model's '/' as it is in the address, not as %2F.")
    check_model(model)
    own_key = _key(request, "X-Slng-Provider-Key")
    check_byok(model, own_key)
    region, world_part_override, base_url = _place(request, settings)
    return Target(
        kind=kind,
        model=model,
        base_url=base_url,
        api_key=_api_key(request, settings, secrets),
        provider_key=own_key or secrets.provider_key(kind),
        own_provider_key=own_key is not None,
        region=region,
        world_part_override=world_part_override,
        agent_id=_tracking_id(request, "X-SLNG-Agent-Id"),
        session_id=_tracking_id(request, "X-SLNG-Session-Id"),
    )


def default_targets(settings: Settings, secrets: Secrets) -> list[tuple[Target, str]]:
    """Return what a client without wishes of its own opens: targets, each with the ``init`` of the plugin's defaults.

    The sample rates are Pipecat's: 16 kHz in, 24 kHz out.
    """
    if secrets.api_key is None or settings.slng_key_passthrough:
        return []
    stt_config: dict[str, Any] = {"sample_rate": 16_000, "language": "en", "enable_vad": True, "enable_partials": True}
    inits: dict[Kind, dict[str, Any]] = {
        "stt": {"type": "init", "config": {"encoding": "linear16", **stt_config}},
        "tts": {"type": "init", "config": {"encoding": "linear16", "sample_rate": 24_000, "language": "en"}},
    }
    if settings.slng_tts_voice:
        inits["tts"]["voice"] = settings.slng_tts_voice
    models: dict[Kind, str] = {"stt": settings.slng_stt_model, "tts": settings.slng_tts_model}
    return [
        (
            Target(
                kind=kind,
                model=models[kind],
                base_url=settings.gateway,
                api_key=secrets.api_key,
                provider_key=secrets.provider_key(kind),
                region=settings.slng_region_override,
                world_part_override=settings.slng_world_part_override,
            ),
            dump(init),
        )
        for kind, init in inits.items()
    ]


def _place(request: HTTPConnection, settings: Settings) -> tuple[str | None, str | None, str]:
    """Return the region, the world part override and the gateway."""
    region = _asked(request, "X-Region-Override", "region")
    world_part = _asked(request, "X-World-Part-Override", "world-part")
    gateway = _asked(request, "X-SLNG-Gateway", "gateway")
    if region is not None:
        region = check_region(region, "X-Region-Override")
    if world_part is not None:
        world_part = check_region(world_part, "X-World-Part-Override")
    if gateway is not None:
        gateway = check_world_part(gateway)
    wanted = region or world_part
    if wanted and gateway:
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"The region override {wanted!r} needs the global gateway, and the regional gateway {gateway!r} was asked "
            "for. Ask for one of them.",
        )
    fixed = settings.fixed_gateway
    if wanted and fixed and settings.gateway != GLOBAL_GATEWAY:
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"This sidecar's gateway is fixed by {fixed}, and the region override {wanted!r} needs the global gateway.",
        )
    if gateway and fixed and settings.slng_base_url:
        raise GatewayError(
            ErrorCode.BAD_REQUEST, f"This sidecar's gateway is fixed by {fixed}, so {gateway!r} is not possible here."
        )
    if wanted:
        return region, world_part, settings.slng_base_url or GLOBAL_GATEWAY
    if gateway:
        return None, None, settings.slng_base_url or gateway_of_world_part(gateway)
    return settings.slng_region_override, settings.slng_world_part_override, settings.gateway


def _api_key(request: HTTPConnection, settings: Settings, secrets: Secrets) -> str:
    shown = bearer(request.headers) if settings.slng_key_passthrough else None
    # The client may send the sidecar's own token as bearer. That token must not leave this machine.
    if shown is not None and not is_token(shown, secrets.token):
        return _usable(shown, "the bearer token")
    key = secrets.api_key
    if key is None and settings.slng_key_passthrough:
        raise GatewayError(
            ErrorCode.AUTH_ERROR,
            "Send your SLNG key as bearer token. If the sidecar has a token of its own, send that as X-API-Key.",
        )
    if key is None:
        raise GatewayError(ErrorCode.AUTH_ERROR, "This sidecar has no SLNG key. Set SLNG_API_KEY where it runs.")
    return key


def _asked(request: HTTPConnection, header: str, parameter: str) -> str | None:
    """Return the header's value, or the query parameter if the header is missing or blank."""
    value = request.headers.get(header) or request.query_params.get(parameter)
    return value if value and value.strip() else None


def _key(request: HTTPConnection, header: str) -> str | None:
    value = request.headers.get(header, "").strip()
    return _usable(value, header) if value else None


def _usable(key: str, name: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise GatewayError(ErrorCode.BAD_REQUEST, f"{name} must be a key: ASCII characters without spaces.")
    return key


def _tracking_id(request: HTTPConnection, header: str) -> str | None:
    value = request.headers.get(header)
    return None if value is None else check_tracking_id(value, header)
