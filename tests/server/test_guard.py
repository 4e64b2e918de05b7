"""Who may use the sidecar, for each request: the token, the Host, the Origin."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from slng_sidecar.server import guard
from slng_sidecar.simulator import Simulator
from support.http_tools import http_client
from support.running import AURA, NOVA, gateway_and_simulator, talking
from websockets.exceptions import InvalidStatus

TOKEN = "a-token-of-this-sidecar"
SPEECH = f"/v1/bridges/unmute/tts/{AURA}"
HEALTH = ("/healthz", "/readyz")


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[tuple[str, Simulator, httpx.AsyncClient]]:
    async with (
        gateway_and_simulator(**settings) as (url, simulator),
        http_client(url) as client,
    ):
        yield url, simulator, client


async def operations(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    """Return every method and path of the sidecar, including FastAPI's own pages."""
    document = (await client.get("/openapi.json")).json()
    paths = {path.replace("{model}", AURA): each for path, each in document["paths"].items()}
    found = [(method.upper(), path) for path, each in paths.items() for method in each]
    return [*found, *(("GET", path) for path in ("/docs", "/openapi.json"))]


async def upgrade_status(url: str, headers: dict[str, str], query: str = "") -> int:
    try:
        async with talking(url, "stt", NOVA, headers, query):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


@pytest.mark.parametrize(
    "shown",
    [
        {"headers": {"Authorization": f"Bearer {TOKEN}"}},
        {"headers": {"authorization": f"bearer {TOKEN}"}},
        {"headers": {"X-API-Key": TOKEN}},
        {"params": {"token": TOKEN}},
        # An SLNG client sends its own key; the token may be a query parameter beside it.
        {"headers": {"Authorization": "Bearer some-key"}, "params": {"token": TOKEN}},
    ],
)
async def test_the_token_is_accepted_in_each_of_its_places(shown: dict[str, Any]) -> None:
    async with serving(sidecar_token=TOKEN) as (_, _, client):
        assert (await client.get("/v1/status", **shown)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"X-API-Key": "t\xf6ken"},
        {"X-API-Key": ""},
        {"Cookie": f"token={TOKEN}"},
    ],
)
async def test_without_the_token_only_health_is_answered(headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    async with serving(sidecar_token=TOKEN) as (url, simulator, client):
        for method, path in await operations_with_token(client):
            reply = await client.request(method, path, headers=raw)
            assert reply.status_code == (200 if path in HEALTH else 401), path
            if path not in HEALTH:
                assert reply.headers["www-authenticate"] == "Bearer"
        assert await upgrade_status(url, headers or {"X-None": "1"}) == 401
        assert simulator.log.dials == 0


async def operations_with_token(client: httpx.AsyncClient) -> list[tuple[str, str]]:
    async with httpx.AsyncClient(trust_env=False, base_url=client.base_url, params={"token": TOKEN}) as allowed:
        return await operations(allowed)


async def test_the_whole_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    class Hmac:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(guard, "hmac", Hmac)
    async with serving(sidecar_token=TOKEN) as (_, _, client):
        assert (await client.get("/v1/status", headers={"X-API-Key": "a"})).status_code == 401
        assert (await client.get("/v1/status", headers={"X-API-Key": TOKEN})).status_code == 200
    assert compared == [(TOKEN.encode(), b"a"), (TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1", "file://", "http://[", ""]
)
async def test_a_page_of_another_origin_reaches_nothing_with_or_without_the_token(
    origin: str, token: str | None
) -> None:
    params = {"token": token} if token else {}
    async with serving(sidecar_token=token) as (url, simulator, client):
        allowed = await (operations_with_token(client) if token else operations(client))
        for method, path in allowed:
            reply = await client.request(method, path, headers={"Origin": origin}, params=params)
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden_origin"), path
            assert "access-control-allow-origin" not in reply.headers
        assert await upgrade_status(url, {"Origin": origin}, f"?token={token}" if token else "") == 403
        assert simulator.log.dials == 0


async def test_a_preflight_allows_nothing() -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with serving() as (_, _, client):
        reply = await client.options(SPEECH, headers={"Origin": "https://evil.example", **ask})
        assert reply.status_code == 403
        assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:8765", "127.0.0.1.x", "local.x", "", "["])
async def test_a_name_that_was_rebound_to_this_machine_reaches_only_health(host: str) -> None:
    async with serving() as (_, simulator, client):
        for method, path in await operations(client):
            reply = await client.request(method, path, headers={"Host": host})
            assert reply.status_code == (200 if path in HEALTH else 403), path
            # After the rebinding the page itself has the same origin.
            origin = {"Origin": f"http://{host}"}
            assert (await client.request(method, path, headers={"Host": host, **origin})).status_code == 403, path
        assert simulator.log.dials == 0


async def test_a_second_host_header_does_not_hide_the_first() -> None:
    async with serving() as (url, _, _):
        for hosts in (["localhost", "rebound.example"], ["rebound.example", "localhost"], []):
            reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
            lines = ["GET /v1/status HTTP/1.1", *(f"Host: {host}" for host in hosts), "Connection: close"]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 403 ")
            writer.close()
            await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost", "LOCALHOST:1", "127.8.9.1", "[::1]:8765", "[::1]"])
async def test_this_machines_own_names_are_allowed(host: str) -> None:
    async with serving() as (_, _, client):
        assert (await client.get("/v1/status", headers={"Host": host})).status_code == 200
        page = {"Host": host, "Origin": f"http://{host}"}
        assert (await client.get("/v1/status", headers=page)).status_code == 200


async def test_a_service_name_a_pod_address_and_a_probe_are_allowed() -> None:
    """In Compose, the host is ``sidecar:8765``. Prometheus uses a discovered address, and a kubelet's probe names any
    host.
    """
    async with serving(sidecar_allowed_hosts="sidecar,10.1.2.3", sidecar_token=None) as (url, _, client):
        for host in ("sidecar:8765", "sidecar", "10.1.2.3:8765"):
            assert (await client.get("/metrics", headers={"Host": host})).status_code == 200
            assert await upgrade_status(url, {"Host": host}) == 101
        assert (await client.get("/metrics", headers={"Host": "10.1.2.4:8765"})).status_code == 403
        assert (await client.get("/readyz", headers={"Host": "10.1.2.4:8765"})).status_code == 200
    async with serving(sidecar_token=TOKEN) as (url, _, client):
        shown = {"Host": "voice.prod.svc:8765", "Authorization": f"Bearer {TOKEN}"}
        assert (await client.get("/metrics", headers=shown)).status_code == 200
        assert await upgrade_status(url, shown) == 101


async def test_an_allowed_origin_still_needs_the_token() -> None:
    origin = {"Origin": "https://my.example"}
    async with serving(sidecar_allowed_origins="https://my.example", sidecar_token=TOKEN) as (url, _, _):
        assert await upgrade_status(url, origin) == 401
        assert await upgrade_status(url, origin, f"?token={TOKEN}") == 101
        assert await upgrade_status(url, {"Origin": "https://my.example.evil"}, f"?token={TOKEN}") == 403


async def test_no_state_is_changed_by_get() -> None:
    async with serving() as (_, simulator, client):
        before = (await client.get("/v1/status")).json()
        found = await operations(client)
        for _, path in found:
            for method in ("GET", "HEAD"):
                assert (await client.request(method, path)).status_code in (200, 404, 405)
        assert {method for method, _ in found} == {"GET", "POST"}
        assert {path for method, path in found if method == "POST"} == {
            SPEECH,
            SPEECH.replace("/tts/", "/stt/"),
            "/v1/audio/speech",
            "/v1/audio/transcriptions",
        }
        assert (await client.get("/v1/status")).json() == before
        assert simulator.log.dials == 0
        assert not list(simulator.log.of("http"))


async def test_refused_requests_are_counted_by_their_code() -> None:
    async with serving(sidecar_token=TOKEN) as (url, _, client):
        await client.get("/v1/status")
        await client.get("/v1/status", headers={"Origin": "https://evil.example"})
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert await upgrade_status(url, {**shown, "X-SLNG-Gateway": "nowhere"}) == 400
        assert (await client.post(SPEECH, headers=shown, json={"text": ""})).status_code == 400
        counted = (await client.get("/metrics", headers=shown)).text
    for code, number in {"local_auth": 1, "forbidden_origin": 1, "bad_request": 2}.items():
        assert f'slng_sidecar_refused_requests_total{{code="{code}"}} {number}.0' in counted
