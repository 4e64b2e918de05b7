"""The arguments that the services share: the sidecar's address, the request headers and the checks of both.

Regions and tracking ids are checked as in ``pipecat-slng`` 0.7.0 (its ``_gateway.py``). A value that it refuses raises
an error here, too, before the service connects.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote, urlsplit

from loguru import logger
from pipecat.transcriptions.language import Language

DEFAULT_URL = "http://127.0.0.1:8765"
DEFAULT_STT_MODEL = "slng/deepgram/nova:3-en"
DEFAULT_TTS_MODEL = "slng/deepgram/aura:2-en"
SUBPROTOCOL = "slng-sidecar.v1"

_TRACKING_ID_LENGTH = 128
_NOT_IN_TRACKING_ID = re.compile(r"[\x00-\x1f\x7f,]")
# The language at the end of a model's variant, such as hi in slng/deepgram/nova:3-hi or pt-BR in x/y:z-pt-BR.
_LANGUAGE_OF_MODEL = re.compile(r":[^/]*?-(multi|[a-z]{2}(?:-[A-Z]{2})?)$")
# The unused arguments that this process has logged.
_logged: set[str] = set()


class WorldPart(StrEnum):
    """A world part, whose regional gateway is ``{value}.api.slng.ai``."""

    EU_NORTH = "eu-north"
    EU_WEST = "eu-west"
    US_EAST = "us-east"
    US_WEST = "us-west"
    AU = "au"
    BR = "br"
    GB = "gb"
    ID = "id"
    IL = "il"
    IN = "in"
    JP = "jp"
    SG = "sg"
    ZA = "za"

    @property
    def host(self) -> str:
        """The host name of the regional gateway."""
        return f"{self.value}.api.slng.ai"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a sidecar.

    Attributes:
        url: ``http://host:port`` without a trailing slash; for a Unix socket, a placeholder.
        socket: the path of the Unix socket; ``None`` for TCP.
    """

    url: str
    socket: str | None = None

    @classmethod
    def of(cls, url: str | None) -> Address:
        """Parse the address of a sidecar.

        Args:
            url: ``http(s)://...``, ``ws(s)://...`` or ``unix:/path``. If it is ``None`` or empty, the environment
                variable ``SLNG_SIDECAR_URL`` is used, and without that ``http://127.0.0.1:8765``.

        Raises:
            ValueError: the address has none of these forms.
        """
        text = (url or os.environ.get("SLNG_SIDECAR_URL") or DEFAULT_URL).strip()
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/"):
                raise ValueError(
                    f"sidecar_url {text!r} must contain the absolute path of the socket, such as "
                    "unix:/run/slng/sidecar.sock."
                )
            return cls("http://localhost", path)
        parts = urlsplit(text)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        if scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"sidecar_url {_without_secrets(text)!r} is not a valid address. Use a URL such as {DEFAULT_URL} or "
                "unix:/path/of/socket."
            )
        return cls(f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}")

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else _without_secrets(self.url)

    def __repr__(self) -> str:
        return f"Address({self})"

    def websocket_url(self, kind: str, model: str) -> str:
        """Return the WebSocket URL of a model.

        Args:
            kind: ``stt`` or ``tts``.
            model: the SLNG route.
        """
        return "ws" + self.http_url(kind, model).removeprefix("http")

    def http_url(self, kind: str, model: str) -> str:
        """Return the HTTP URL of a model.

        Args:
            kind: ``stt`` or ``tts``.
            model: the SLNG route.
        """
        return f"{self.url}/v1/bridges/unmute/{kind}/{quote(model, safe='/:')}"


def _without_secrets(url: str) -> str:
    """Return a URL without its user information, query and fragment, which may contain secrets."""
    scheme = "".join(re.findall(r"^\w+://", url))
    _, at, rest = url.removeprefix(scheme).rpartition("@")
    return f"{scheme}{'…@' if at else ''}{re.split('[?#]', rest)[0]}"


def request_headers(
    *,
    sidecar_token: str | None,
    provider_key: str | None,
    world_part: str | None,
    region_override: str | None,
    world_part_override: str | None,
    external_agent_id: str | None,
    external_session_id: str | None,
) -> dict[str, str]:
    """Return the headers of the requests to the sidecar.

    Args:
        sidecar_token: the sidecar's token; by default ``SLNG_SIDECAR_TOKEN`` from the environment.
        provider_key: your own key with the provider.
        world_part: the regional gateway to use.
        region_override: the data centre that the global gateway is asked to use.
        world_part_override: the broad zone that the global gateway is asked to use.
        external_agent_id: the agent id for SLNG's usage events.
        external_session_id: the session id for SLNG's usage events.

    Raises:
        ValueError: the world part is unknown, a tracking id is invalid, or a world part is combined with an override,
            which only the global gateway supports.
    """
    headers: dict[str, str] = {}
    token = sidecar_token or os.environ.get("SLNG_SIDECAR_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if provider_key:
        headers["X-Slng-Provider-Key"] = provider_key
    if world_part is not None:
        if world_part not in tuple(WorldPart):
            raise ValueError(f"Unknown world_part {world_part!r}. Use one of: {', '.join(WorldPart)}.")
        if region_override or world_part_override:
            raise ValueError(
                "world_part selects a regional gateway, but region_override and world_part_override need the global "
                "gateway. Pass either world_part or the overrides."
            )
        headers["X-SLNG-Gateway"] = str(world_part)
    if region_override:
        headers["X-Region-Override"] = region_override
    if world_part_override:
        headers["X-World-Part-Override"] = world_part_override
    for name, header, value in (
        ("external_agent_id", "X-SLNG-Agent-Id", external_agent_id),
        ("external_session_id", "X-SLNG-Session-Id", external_session_id),
    ):
        if value is not None:
            headers[header] = _tracking_id(value, name)
    return headers


def _tracking_id(value: object, name: str) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        raise ValueError(f"{name} must be a non-empty string")
    if len(text) > _TRACKING_ID_LENGTH:
        raise ValueError(f"{name} must be {_TRACKING_ID_LENGTH} characters or fewer")
    if _NOT_IN_TRACKING_ID.search(text):
        raise ValueError(f"{name} must not contain commas or control characters")
    return text


def check_byok(model: str, provider_key: str | None) -> None:
    """Check that a provider key is only used with an external route, as SLNG requires.

    Args:
        model: the SLNG route.
        provider_key: your own key with the provider.

    Raises:
        ValueError: SLNG hosts the model.
    """
    if provider_key and model.startswith("slng/"):
        raise ValueError(
            f"BYOK is only supported for external STT/TTS routes: {model!r} is hosted by SLNG. Leave out provider_key, "
            "or use the external route, without the prefix slng/."
        )


def check_encoding(encoding: str, accepted: tuple[str, ...], reason: str) -> None:
    """Check an encoding, since audio in a wrong one would become noise.

    Args:
        encoding: the encoding to check.
        accepted: the encodings that work.
        reason: why others do not work, as a sentence for the error message.

    Raises:
        ValueError: the encoding is not accepted.
    """
    if encoding not in accepted:
        raise ValueError(f"encoding={encoding!r} is not supported: {reason} Use one of: {', '.join(accepted)}.")


def default_language(model: str) -> Language | None:
    """Return the language to request if the caller sets none: English, like ``pipecat-slng``.

    If the model's name ends in another language, such as ``slng/deepgram/nova:3-hi``, return ``None``. Then no language
    is sent.
    """
    named = _LANGUAGE_OF_MODEL.search(model)
    return Language.EN if named is None or named.group(1).partition("-")[0] == "en" else None


def log_unused(**arguments: Any) -> None:
    """Log that an argument is not used, once per process and without its value."""
    for name, value in arguments.items():
        if value is not None and name not in _logged:
            _logged.add(name)
            logger.info(f"{name} is not used: the sidecar has the key and the address of SLNG.")
