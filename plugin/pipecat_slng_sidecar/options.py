"""What the services take besides their settings: where the sidecar is, what it is asked for, and what cannot work.

Regions and tracking ids are checked as ``pipecat-slng`` 0.7.0 checks them (its ``_gateway.py``), so that what it
refuses is refused here, too, before anything is dialled.
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
# A language at the end of a model's variant: the hi of slng/deepgram/nova:3-hi, the pt-BR of x/y:z-pt-BR.
_LANGUAGE_OF_MODEL = re.compile(r":[^/]*?-(multi|[a-z]{2}(?:-[A-Z]{2})?)$")
_said: set[str] = set()


class WorldPart(StrEnum):
    """An SLNG region. Each one is served at ``{value}.api.slng.ai``."""

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
        """The gateway's host name."""
        return f"{self.value}.api.slng.ai"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a sidecar listens.

    Attributes:
        url: ``http://host:port``, without a slash at its end; for a Unix socket a placeholder.
        socket: the path of the Unix socket, or ``None``.
    """

    url: str
    socket: str | None = None

    @classmethod
    def of(cls, url: str | None) -> Address:
        """Read an address: ``http(s)://``, ``ws(s)://`` or ``unix:/path``; ``None`` is ``SLNG_SIDECAR_URL``, else
        ``http://127.0.0.1:8765``.

        Raises:
            ValueError: it is none of these.
        """
        text = (url or os.environ.get("SLNG_SIDECAR_URL") or DEFAULT_URL).strip()
        if text.startswith("unix:"):
            path = text.removeprefix("unix:").removeprefix("//")
            if not path.startswith("/"):
                raise ValueError(
                    f"sidecar_url {text!r} must name the socket by its full path: unix:/run/slng/sidecar.sock"
                )
            return cls("http://localhost", path)
        parts = urlsplit(text)
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        if scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(
                f"sidecar_url {_shown(text)!r} is no address of a sidecar. Write {DEFAULT_URL} or unix:/path/of/socket."
            )
        return cls(f"{scheme}://{parts.netloc}{parts.path.rstrip('/')}")

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket else _shown(self.url)

    def __repr__(self) -> str:
        return f"Address({self})"

    def websocket(self, kind: str, model: str) -> str:
        """Give the WebSocket address of a model; ``kind`` is ``stt`` or ``tts``."""
        return "ws" + self.http(kind, model).removeprefix("http")

    def http(self, kind: str, model: str) -> str:
        """Give the HTTP address of a model."""
        return f"{self.url}/v1/bridges/unmute/{kind}/{quote(model, safe='/:')}"


def _shown(url: str) -> str:
    """Give an address without what stands before an ``@`` or after a ``?`` or ``#``: it may be a secret."""
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
    """Give the headers that ask a sidecar for all this.

    Raises:
        ValueError: an unknown region, a bad tracking id, or a regional gateway together with a region override, which
            only the global gateway honours.
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
                "world_part picks a regional gateway, and region_override and world_part_override need the global one. "
                "Pass one of them."
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
        raise ValueError(f"{name} must be a string that is not empty")
    if len(text) > _TRACKING_ID_LENGTH:
        raise ValueError(f"{name} must be {_TRACKING_ID_LENGTH} characters or fewer")
    if _NOT_IN_TRACKING_ID.search(text):
        raise ValueError(f"{name} must not contain commas or control characters")
    return text


def check_byok(model: str, provider_key: str | None) -> None:
    """Refuse what upstream refuses.

    Raises:
        ValueError: a provider's key for a model that SLNG itself hosts.
    """
    if provider_key and model.startswith("slng/"):
        raise ValueError(
            f"BYOK is only supported for external STT/TTS routes: {model!r} is hosted by SLNG. Leave out provider_key, "
            "or name the provider's own route, without the slng/ before it."
        )


def check_encoding(encoding: str, taken: tuple[str, ...], why: str) -> None:
    """Refuse an encoding that would become noise.

    Raises:
        ValueError: it is not one of those ``taken``.
    """
    if encoding not in taken:
        raise ValueError(f"encoding={encoding!r} cannot work: {why} Use one of: {', '.join(taken)}.")


def language_of_model(model: str) -> Language | None:
    """Give the language that a service asks for where the caller names none: English, as ``pipecat-slng`` does.

    ``None``, which is not sent, where the model's own name names another: ``slng/deepgram/nova:3-hi`` hears Hindi.
    """
    named = _LANGUAGE_OF_MODEL.search(model)
    return Language.EN if named is None or named.group(1).partition("-")[0] == "en" else None


def not_needed(**given: Any) -> None:
    """Say once in a process that an argument has no use any more, without its value."""
    for name, value in given.items():
        if value is not None and name not in _said:
            _said.add(name)
            logger.info(f"{name} is not needed: the sidecar has the key and the address of SLNG. It is not used.")
