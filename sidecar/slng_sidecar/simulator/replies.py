"""The simulator's error messages and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from slng_sidecar.protocol.errors import STATUS_OF_CODE
from slng_sidecar.protocol.messages import dump


def error_message(code: str, message: str, shape: str, status: int | None = None) -> dict[str, Any]:
    """Return an error in one of the shapes that SLNG's clients read."""
    number = status or STATUS_OF_CODE.get(code, 502)
    match shape:
        case "top":
            return {"type": "error", "code": code, "message": message}
        case "status_int":
            return {"type": "error", "status_code": number, "message": message}
        case "status_str":
            return {"type": "error", "data": {"code": str(number), "message": message}}
        case "message":
            return {"type": "error", "message": message}
        case "capitalised":
            return {"type": "Error", "description": message}
        case "typeless":
            return {"error": message}
        case "data_text":
            return {"type": "error", "data": message, "code": code, "message": message}
    data: dict[str, Any] = {"code": code, "message": message}
    return {"type": "error", "data": data | ({"status_code": status} if status else {})}


def refusal_of(arguments: Mapping[str, Any]) -> Response:
    """Return the answer of a ``refuse`` fault."""
    status = arguments.get("status", 503)
    body = arguments.get("body", {"error": "Service Unavailable"})
    headers = dict(arguments.get("headers", {}))
    if isinstance(body, str):
        return Response(body, status, headers, arguments.get("content_type", "text/plain"))
    return Response(dump(dict(body)), status, headers, arguments.get("content_type", "application/json"))
