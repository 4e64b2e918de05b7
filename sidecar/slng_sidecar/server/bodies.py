"""The JSON bodies of requests, read within bounds and refused by name."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from slng_sidecar.config import Settings
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.messages import parse_object

_BODY_BESIDES_TEXT = 65_536
_NOT_JSON = ("multipart/", "audio/", "video/", "image/")

M = TypeVar("M", bound=BaseModel)

_ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "retryable", "fatal", "data"],
            "properties": {
                "code": {"type": "string"},
                "message": {"type": "string"},
                "retryable": {"type": "boolean"},
                "fatal": {"type": "boolean"},
                "upstream": {"type": "object"},
                "data": {"type": "object"},
            },
        }
    },
}
_ERROR_CONTENT = {"application/json": {"schema": _ERROR_SCHEMA}}
ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "It cannot be had; the message says why and what to do.", "content": _ERROR_CONTENT},
    "5XX": {"description": "Upstream failed, or the sidecar.", "content": _ERROR_CONTENT},
}
"""The errors of a speech route, for OpenAPI."""


async def json_body(request: Request, text_field: str, settings: Settings) -> dict[str, Any]:
    """Read a JSON object that holds a text.

    Raises:
        GatewayError: it is none, holds no text, or too long a one, or does not come in time.
        ClientDisconnect: the client left.
    """
    max_text = settings.sidecar_max_text
    kind = request.headers.get("content-type", "").strip().lower()
    if kind.startswith(_NOT_JSON):
        raise GatewayError(
            ErrorCode.BAD_REQUEST,
            f"This route takes a JSON object, not {kind[:60]!r}. Send application/json.",
            status=415,
        )
    try:
        async with asyncio.timeout(settings.sidecar_init_timeout):
            value = parse_object((await _bytes(request, max_text)).decode())
    except TimeoutError:
        raise GatewayError(
            ErrorCode.CLIENT_STUCK, f"The body did not come whole within {settings.sidecar_init_timeout:g} s."
        ) from None
    except UnicodeDecodeError:
        raise GatewayError(ErrorCode.BAD_REQUEST, "The body must be JSON in UTF-8.") from None
    except GatewayError as error:
        if error.code != ErrorCode.BAD_REQUEST:
            raise
        # It speaks of messages, which there are none of here.
        raise GatewayError(ErrorCode.BAD_REQUEST, error.message.replace("That text message", "The body")) from None
    text = value.get(text_field)
    if not isinstance(text, str) or not text.strip():
        raise GatewayError(
            ErrorCode.BAD_REQUEST, f'There is nothing to say: send {{"{text_field}": "…"}} with a letter or more.'
        )
    if len(text) > max_text:
        raise _too_long(max_text)
    return value


def validated(model: type[M], value: dict[str, Any]) -> M:
    """Read a request's fields.

    Raises:
        GatewayError: with the field that is wrong, and what it takes.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GatewayError(ErrorCode.CONFIG_ERROR, f"{where}: {first['msg']}.") from None


def config_of(given: dict[str, Any]) -> dict[str, Any]:
    """Return the config of HTTP speech that goes upstream: the given fields and the defaults."""
    return {"sample_rate": 24_000, **given, "encoding": "linear16"}


def form_of(file_name: str, *, raw: bool = False, **fields: str) -> dict[str, Any]:
    """Return the OpenAPI description of a form with a file.

    Args:
        file_name: the name of the file's field.
        raw: whether the file alone is accepted as well.
        fields: the other fields, with their descriptions.
    """
    properties: dict[str, Any] = {file_name: {"type": "string", "format": "binary", "description": "the audio file"}}
    properties |= {name: {"type": "string", "description": text} for name, text in fields.items()}
    schema = {"type": "object", "required": [file_name], "properties": properties}
    content: dict[str, Any] = {"multipart/form-data": {"schema": schema}}
    if raw:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


async def _bytes(request: Request, max_text: int) -> bytes:
    """Read the body as far as it may go: a character takes up to twelve bytes in JSON."""
    limit = 12 * max_text + _BODY_BESIDES_TEXT
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _too_long(max_text)
        parts.append(part)
    return b"".join(parts)


def _too_long(max_text: int) -> GatewayError:
    return GatewayError(
        ErrorCode.PAYLOAD_TOO_LARGE,
        f"{max_text:,} characters is the most for one text (SIDECAR_MAX_TEXT). Send it in parts.",
    )
