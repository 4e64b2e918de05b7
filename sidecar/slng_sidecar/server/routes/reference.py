"""``GET /docs``: the routes as a page, rendered from the OpenAPI document.

FastAPI's own page loads scripts from other sites, which would run with the rights of the sidecar's own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from fastapi import APIRouter
from starlette.responses import HTMLResponse

_HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>slng-sidecar: routes</title>
<meta name="viewport" content="width=device-width"><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font: 600 1rem ui-monospace, monospace; margin-top: 2.5rem; border-top: 1px solid #8884; padding-top: 1rem; }
table { border-collapse: collapse; } td { padding: .2rem 1rem .2rem 0; vertical-align: top; }
code { font: .9rem ui-monospace, monospace; }
</style><h1>slng-sidecar</h1>
<p>There are also WebSockets on <code>/v1/bridges/unmute/stt/{model}</code> and
<code>/v1/bridges/unmute/tts/{model}</code>. Programs can read <a href="openapi.json">openapi.json</a>.</p>
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def reference_routes(openapi: Callable[[], dict[str, Any]]) -> APIRouter:
    """Return the route ``/docs``.

    Args:
        openapi: returns the OpenAPI document.
    """
    router = APIRouter()

    @router.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page_of(openapi()), headers={"Content-Security-Policy": _POLICY})

    return router


def page_of(document: dict[str, Any]) -> str:
    """Return the page, which runs no script and loads nothing."""
    operations = ((path, method, each) for path, item in document["paths"].items() for method, each in item.items())
    return _HEAD + "".join(_operation(path, method, each) for path, method, each in operations) + "</html>\n"


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    answers = [
        (status, answer.get("description", ""), " · ".join(answer.get("content", ())))
        for status, answer in operation.get("responses", {}).items()
    ]
    return (
        f"<h2>{escape(method.upper())} {escape(path)}</h2><p>{escape(operation.get('summary', ''))}</p>"
        + _table(_inputs(operation))
        + _table(answers)
    )


def _inputs(operation: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    for each in operation.get("parameters", ()):
        yield each["name"], f"in the {each['in']}", each.get("description", "")
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        for name, field in schema.get("properties", {}).items():
            needed = "required" if name in schema.get("required", ()) else ""
            yield name, f"{media_type} {needed}".strip(), field.get("description", "")


def _table(rows: Any) -> str:
    cells = ("".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
