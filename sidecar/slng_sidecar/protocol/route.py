"""Where a request goes: the model route, the gateway, the region, and whose key pays.

Facts of the upstream side are from SLNG's documentation and the official clients (``pipecat-slng`` 0.4.0 and 0.7.0,
``livekit-plugins-slng`` 1.8.9).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote, urlsplit

from slng_sidecar.protocol.errors import ErrorCode, GatewayError

Kind = Literal["stt", "tts"]

WORLD_PARTS = (
    "eu-north", "eu-west", "us-east", "us-west", "au", "br", "gb", "id", "il", "in", "jp", "sg", "za",
)  # fmt: skip
"""The regions with a gateway of their own at ``{world_part}.api.slng.ai``; it does not route to other regions."""

GLOBAL_GATEWAY = "https://api.slng.ai"
"""The gateway that honours the region headers."""

BYOK_REFUSED = "BYOK is only supported for external STT/TTS routes"
"""Upstream's own words, so that clients that look for them find them."""

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_MODEL = re.compile(rf"{_PART}(?:/{_PART})+(?::{_PART})?")
_BASE_URL = re.compile(r"[A-Za-z0-9._~:/\[\]%-]+")
_REGIONS = re.compile(r"[a-z0-9-]+(?:\s*,\s*[a-z0-9-]+)*")
_TRACKING_ID_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f,]")
_TRACKING_ID_MAX = 128
_MAX_MODEL = 200


def check_model(model: str) -> str:
    """Return ``model`` when it is a route such as ``slng/deepgram/nova:3-en``.

    At least two path segments and at most one colon part, each starting with a letter or digit (LiveKit's grammar).

    Raises:
        GatewayError: ``bad_request``, where it is not.
    """
    if len(model) > _MAX_MODEL or not _MODEL.fullmatch(model):
        shown = model if len(model) <= 80 else model[:80] + "…"
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"{shown!r} is not a model. A model is a route such as slng/deepgram/nova:3-en or cartesia/sonic:3: two or "
            "more names joined by '/', and at most one ':' with a variant.",
        )
    return model


def is_hosted(model: str) -> bool:
    """Tell whether SLNG itself runs the model: its route begins with ``slng/``. Every other one is external."""
    return model.lower().startswith("slng/")


def check_byok(model: str, provider_key: str | None) -> None:
    """Refuse a client's own provider key on a route that SLNG hosts, as upstream does.

    Raises:
        GatewayError: ``config_error``, status 400.
    """
    if provider_key and is_hosted(model):
        raise GatewayError(ErrorCode.CONFIG_ERROR, BYOK_REFUSED, status=400)


def check_tracking_id(value: str, name: str) -> str:
    """Return a tracking id, trimmed: 1 to 128 characters, no comma, no control character (the official rule).

    Raises:
        GatewayError: ``bad_request``, naming the header ``name``.
    """
    value = value.strip()
    if not value or len(value) > _TRACKING_ID_MAX or _TRACKING_ID_FORBIDDEN.search(value):
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"{name} must be 1 to {_TRACKING_ID_MAX} characters without commas or control characters.",
        )
    return value


def check_world_part(value: str) -> str:
    """Return the name of a regional gateway, in lower case.

    Raises:
        GatewayError: ``bad_request``, with the names that exist.
    """
    name = value.strip().lower()
    if name not in WORLD_PARTS:
        raise GatewayError(
            ErrorCode.BAD_REQUEST, f"There is no gateway {value[:40]!r}. The gateways are {', '.join(WORLD_PARTS)}."
        )
    return name


def check_region(value: str, name: str) -> str:
    """Return a region, or a list of them in order of preference, as upstream wants it: lower case, joined by ``", "``.

    Raises:
        GatewayError: ``bad_request``, naming the setting ``name``.
    """
    text = value.strip().lower()
    if len(text) > 200 or not _REGIONS.fullmatch(text):
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"{name} takes a region such as eu-north-1, or several with commas between, not {value[:40]!r}.",
        )
    return ", ".join(part.strip() for part in text.split(","))


def gateway_of_world_part(world_part: str) -> str:
    """Give the base URL of a regional gateway."""
    return f"https://{world_part}.api.slng.ai"


def check_base_url(value: str) -> str:
    """Return a base URL without trailing slash; ``host:port`` alone means https.

    Raises:
        ValueError: where it names no host, or a scheme other than http, https, ws and wss.
    """
    scheme, separator, rest = value.strip().partition("://")
    if not separator:
        scheme, rest = "https", scheme
    scheme, rest = scheme.lower(), rest.rstrip("/")
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0) and not (parts.query or parts.fragment)
    except ValueError:
        usable = False
    if scheme not in ("http", "https", "ws", "wss") or not usable or not _BASE_URL.fullmatch(rest):
        raise ValueError(
            f"{shown_url(value)!r} is not a base URL; give one such as https://api.slng.ai or ws://127.0.0.1:9100"
        )
    return f"{scheme}://{rest}"


def shown_url(url: str) -> str:
    """Give an address as it may be shown: without what stands before an ``@`` or after a ``?`` or ``#``."""
    scheme = "".join(re.findall(r"^\w+://", url))
    _, at, rest = url.removeprefix(scheme).rpartition("@")
    place, *more = re.split("[?#]", rest, maxsplit=1)
    return f"{scheme}{'…@' if at else ''}{place}{'…' if more else ''}"


@dataclass(frozen=True, slots=True)
class Target:
    """Everything that is fixed when an upstream connection is opened.

    Two connections with equal targets can stand for each other; ``repr`` shows no key.

    Attributes:
        base_url: the gateway.
        region, world_part_override: what the global gateway is asked for; the region wins.
        api_key, provider_key: SLNG's key, and the provider's for BYOK, which goes to external routes only.
        own_provider_key: whether that is the client's own, which may not be used with a hosted route.
        agent_id, session_id: tracking ids.
    """

    kind: Kind
    model: str
    base_url: str
    api_key: str
    provider_key: str | None = None
    region: str | None = None
    world_part_override: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    own_provider_key: bool = False

    def __repr__(self) -> str:
        return f"Target({self.kind} {self.model} at {self.base_url})"

    @property
    def url(self) -> str:
        """The WebSocket URL of the bridge, with ``/`` and ``:`` of the model left raw."""
        scheme, _, rest = self.base_url.partition("://")
        scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
        return f"{scheme}://{rest}/v1/bridges/unmute/{self.kind}/{quote(self.model, safe='/:')}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The keys, so that whatever upstream says can be freed of them."""
        return tuple(key for key in (self.api_key, self.provider_key) if key)

    def headers(self) -> dict[str, str]:
        """Give the headers of the upgrade."""
        headers = {"Authorization": f"Bearer {self.api_key}"}
        if self.provider_key and not is_hosted(self.model):
            headers["X-Slng-Provider-Key"] = self.provider_key
        if self.region:
            headers["X-Region-Override"] = self.region
        elif self.world_part_override:
            headers["X-World-Part-Override"] = self.world_part_override
        if self.agent_id:
            headers["X-SLNG-Agent-Id"] = self.agent_id
        if self.session_id:
            headers["X-SLNG-Session-Id"] = self.session_id
        return headers
