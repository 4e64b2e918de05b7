"""``GET /v1/models``: what upstream's catalogue names, and what is configured here."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from slng_sidecar.protocol.errors import ErrorCode, GatewayError
from slng_sidecar.protocol.route import Target
from slng_sidecar.server.bodies import ERRORS
from slng_sidecar.server.services import Services
from slng_sidecar.server.targets import resolve_target
from slng_sidecar.upstream.bridge import explain
from slng_sidecar.upstream.failures import refused, without_keys

_FRESH_SECONDS = 300.0
_PATH = "/v1/catalog/models"
_PAGE_SIZE = 100  # the most that upstream gives
_MAX_PAGES = 50
_MAX_BYTES = 8_000_000
_SECONDS = 15.0


class Catalogue:
    """Upstream's catalogue, each gateway's kept for five minutes.

    Mutable: ``_known``, by gateway, with the time until which it holds; one request at a time asks.
    """

    def __init__(self, client: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[str, tuple[float, list[dict[str, Any]]]] = {}
        self._asking = asyncio.Lock()

    async def models(self, target: Target) -> list[dict[str, Any]]:
        """Give the models that a gateway offers, as OpenAI's list has them.

        Raises:
            GatewayError: the gateway does not answer, or not with a catalogue.
        """
        try:
            # For all pages, and the wait behind others who ask, together.
            async with asyncio.timeout(_SECONDS), self._asking:
                until, models = self._known.get(target.base_url, (0.0, []))
                if self._clock() >= until:
                    models = await self._ask(target)
                    self._known[target.base_url] = (self._clock() + _FRESH_SECONDS, models)
                return models
        except TimeoutError:
            host = urlsplit(target.base_url).netloc
            raise GatewayError(
                ErrorCode.UPSTREAM_TIMEOUT, f"The catalogue of {host} did not come within {_SECONDS:g} s."
            ) from None

    async def _ask(self, target: Target) -> list[dict[str, Any]]:
        client: httpx.AsyncClient = await self._client()
        items: list[dict[str, Any]] = []
        for page in range(1, _MAX_PAGES + 1):
            found = await self._page(client, target, page)
            items += found
            if len(found) < _PAGE_SIZE:
                break
        return [_model(str(item["code"]), item.get("service_type"), item.get("provider_code")) for item in items]

    async def _page(self, client: httpx.AsyncClient, target: Target, page: int) -> list[dict[str, Any]]:
        host = urlsplit(target.base_url).netloc
        scheme, _, rest = target.base_url.partition("://")
        url = f"{'https' if scheme in ('https', 'wss') else 'http'}://{rest}{_PATH}"
        try:
            async with client.stream(
                "GET",
                url,
                params={"page": page, "page_size": _PAGE_SIZE},
                headers={"Authorization": f"Bearer {target.api_key}"},
            ) as reply:
                body = b""
                async for data in reply.aiter_raw():
                    body += data
                    if len(body) > _MAX_BYTES:
                        raise GatewayError(ErrorCode.PROVIDER_ERROR, f"The catalogue of {host} is too long to be one.")
        except httpx.HTTPError as error:
            raise explain(error, target, _SECONDS) from None
        if reply.status_code in (401, 403, 429):
            raise refused(reply.status_code, body, target)
        if reply.status_code != 200:
            raise GatewayError(
                ErrorCode.UPSTREAM_UNREACHABLE,
                f"The catalogue of {host} could not be had: it answered HTTP {reply.status_code}. Models can be used "
                "without it.",
                upstream={"status": reply.status_code},
            )
        return _items(without_keys(body.decode(errors="replace"), target.secrets), host)


def _items(body: str, host: str) -> list[dict[str, Any]]:
    """Read a page: a list, or one under a name that lists have."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, dict):
        value = next((value[name] for name in ("data", "items", "models", "results") if name in value), None)
    if not isinstance(value, list):
        raise GatewayError(ErrorCode.PROVIDER_ERROR, f"{host} answered with no catalogue of models.")
    return [item for item in value if isinstance(item, dict) and isinstance(item.get("code"), str)]


def _model(name: str, kind: Any = None, owner: Any = None) -> dict[str, Any]:
    model = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": owner if isinstance(owner, str) else name.removeprefix("slng/").partition("/")[0],
    }
    return {**model, "service_type": kind} if kind in ("stt", "tts") else model


def models_routes(services: Services) -> APIRouter:
    """Give the routes ``GET /v1/models`` and ``GET /v1/models/{model}``."""
    router = APIRouter()
    catalogue = Catalogue(services.bridge.client)

    async def all_models(request: Request) -> dict[str, dict[str, Any]]:
        settings = services.settings
        # Of the request only its headers count: OpenAI's client writes the '/' of a model as %2F.
        asked = Request({**request.scope, "raw_path": b""})
        target = resolve_target(asked, "tts", "catalogue/models", settings, services.secrets)
        offered = await catalogue.models(target)
        configured = [
            _model(settings.slng_stt_model, "stt"),
            _model(settings.slng_tts_model, "tts"),
            *(_model(name) for name in settings.sidecar_model_aliases),
        ]
        return {model["id"]: model for model in (*configured, *offered)}

    @router.get(
        "/v1/models",
        summary="The models of upstream's catalogue, and the configured ones",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}, "description": "OpenAI's list"}, **ERRORS},
    )
    async def list_models(request: Request) -> Response:
        found = await all_models(request)
        return JSONResponse({"object": "list", "data": list(found.values())})

    @router.get(
        "/v1/models/{model:path}",
        summary="One of them",
        response_class=Response,
        responses={200: {"content": {"application/json": {}}, "description": "OpenAI's model"}, **ERRORS},
    )
    async def one_model(request: Request, model: str) -> Response:
        found = (await all_models(request)).get(model)
        if found is None:
            raise GatewayError(
                ErrorCode.NOT_FOUND, f"There is no model {model[:100]!r} here; GET /v1/models lists them."
            )
        return JSONResponse(found)

    return router
