"""What the sidecar says of itself: alive, ready, metrics, and what goes on, as JSON and as a page."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import HTMLResponse, JSONResponse, Response

from slng_sidecar import __version__
from slng_sidecar.server.gateway import Gateway


def status_routes(gateway: Gateway) -> APIRouter:
    """Give the routes ``/healthz``, ``/readyz``, ``/metrics``, ``/v1/status`` and ``/``."""
    router, services = APIRouter(), gateway.services
    page = files("slng_sidecar.server.routes").joinpath("status.html").read_text("utf-8")
    headers = {"Content-Security-Policy": _policy(page), "Referrer-Policy": "no-referrer"}

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", summary="Is it alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @router.head("/readyz", include_in_schema=False)
    @router.get(
        "/readyz",
        summary="Does it take sessions?",
        responses={503: {"description": "It is shutting down."}},
    )
    async def readyz() -> Response:
        status, state = (503, "draining") if gateway.is_draining else (200, "ready")
        return JSONResponse({"status": state}, status)

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @router.head("/v1/status", include_in_schema=False)
    @router.get("/v1/status", summary="What goes on now")
    async def status() -> dict[str, Any]:
        return {
            "version": __version__,
            "state": "draining" if gateway.is_draining else "ready",
            "gateway": services.settings.gateway,
            "max_sessions": services.settings.sidecar_max_sessions,
            "standby": services.standby.counts,
            "sessions": [live.as_json() for live in gateway.live],
            "errors": services.errors.as_json(),
        }

    @router.head("/", include_in_schema=False)
    @router.get("/", summary="The same as a page", response_class=HTMLResponse)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers=headers)

    return router


def _policy(page: str) -> str:
    """Allow the page its own script, and nothing that anybody could have put into it."""
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
