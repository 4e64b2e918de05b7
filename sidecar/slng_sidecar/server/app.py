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
from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.server.gateway import Gateway
from slng_sidecar.server.guard import Guard, peer_of
from slng_sidecar.server.replies import error_response
from slng_sidecar.server.routes.bridge import bridge_routes
from slng_sidecar.server.routes.models import models_routes
from slng_sidecar.server.routes.openai import openai_routes
from slng_sidecar.server.routes.reference import reference_routes
from slng_sidecar.server.routes.status import status_routes
from slng_sidecar.server.routes.websockets import websocket_routes
from slng_sidecar.server.session_factory import SessionFactory
from slng_sidecar.server.synthesis import Synthesis


def create_app(gateway: Gateway) -> ASGIApp:
    """Build the application. It opens nothing before it is served."""
    services = gateway.services
    sessions = SessionFactory(gateway)
    synthesis = Synthesis(gateway, sessions)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with services:
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
            ClientDisconnect: _client_left,
            Exception: _unexpected,
        },
    )
    app.include_router(websocket_routes(gateway, sessions))
    app.include_router(bridge_routes(gateway, sessions, synthesis))
    app.include_router(openai_routes(gateway, sessions, synthesis))
    app.include_router(models_routes(services))
    app.include_router(status_routes(gateway))
    app.include_router(reference_routes(app.openapi))

    return Guard(app, services.settings, services.secrets, lambda: gateway.is_draining, gateway.refused)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    match error.status_code:
        case 404:
            failure = GatewayError(
                ErrorCode.NOT_FOUND, f"There is nothing at {request.url.path[:200]}. /docs lists the routes."
            )
        case 405:
            failure = GatewayError(
                ErrorCode.METHOD_NOT_ALLOWED, f"{request.url.path[:200]} does not accept {request.method}."
            )
        case status:
            failure = GatewayError(ErrorCode.BAD_REQUEST, str(error.detail), status=status)
    return error_response(failure, dict(error.headers or {}))


async def _validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return error_response(GatewayError(ErrorCode.BAD_REQUEST, f"{where}: {first['msg']}."))


async def _client_left(_request: Request, _error: Exception) -> Response:
    return Response(status_code=400)


async def _unexpected(_request: Request, _error: Exception) -> Response:
    return error_response(GatewayError.own_fault())
