"""The FastAPI application: all routes, behind the guard."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from slng_sidecar import __version__
from slng_sidecar.config import Settings
from slng_sidecar.keys import Secrets
from slng_sidecar.protocol.errors import GatewayError
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.guard import Guard, peer_of
from slng_sidecar.server.replies import error_response
from slng_sidecar.server.routes.bridge import speech_routes
from slng_sidecar.server.routes.models import models_routes
from slng_sidecar.server.routes.openai import openai_routes
from slng_sidecar.server.routes.reference import reference_routes
from slng_sidecar.server.routes.status import status_routes
from slng_sidecar.server.routes.websockets import streaming_routes
from slng_sidecar.server.synthesis import Synthesis


def create_app(settings: Settings, secrets: Secrets, gateway: Gateway | None = None) -> ASGIApp:
    """Build the application; it opens nothing until it is asked to.

    Args:
        gateway: its state, where the caller has a use for that.
    """
    gateway = gateway or Gateway(settings, secrets)
    synthesis = Synthesis(gateway)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with gateway:
            yield

    async def gateway_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        gateway.refused(error, peer_of(request.scope))
        return error_response(error)

    app = FastAPI(
        title="slng-sidecar",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        summary="A localhost gateway to SLNG for voice bots.",
        exception_handlers={
            GatewayError: gateway_error,
            HTTPException: _http_error,
            RequestValidationError: _validation_error,
            ClientDisconnect: _nobody_there,
            Exception: _unexpected,
        },
    )
    app.include_router(streaming_routes(gateway))
    app.include_router(speech_routes(gateway, synthesis))
    app.include_router(openai_routes(gateway, synthesis))
    app.include_router(models_routes(gateway))
    app.include_router(status_routes(gateway))
    app.include_router(reference_routes(app.openapi))

    return Guard(app, settings, secrets, lambda: gateway.draining, gateway.refused)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            told = GatewayError("not_found", f"Nothing is at {request.url.path[:200]}. /docs lists what there is.")
        case 405:
            told = GatewayError("method_not_allowed", f"{request.method} is not for {request.url.path[:200]}.")
        case status:
            told = GatewayError("bad_request", str(error.detail), status=status)
    return error_response(told, dict(error.headers or {}))


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return error_response(GatewayError("bad_request", f"{where}: {first['msg']}."))


async def _nobody_there(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return error_response(GatewayError.own_fault())
