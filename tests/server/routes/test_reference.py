"""``/docs``: the page has every route, and a browser gets all of it from the sidecar."""

from __future__ import annotations

import re

from support.http_tools import http_client
from support.running import gateway_and_simulator


async def test_the_page_names_every_route_and_loads_nothing() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as client:
        reply = await client.get("/docs")
        document = (await client.get("/openapi.json")).json()
        assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
        for path, item in document["paths"].items():
            for method in item:
                assert f"<h2>{method.upper()} {path}</h2>" in reply.text
        assert "the text to say" in reply.text, "a field of a request's body"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert not re.search(r"<script|\bsrc=|https?://|<link|@import", reply.text)
        assert (await client.get("/redoc")).status_code == 404


async def test_no_page_names_an_address_elsewhere() -> None:
    async with gateway_and_simulator() as (url, _), http_client(url) as client:
        for path in ("/", "/docs"):
            assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", (await client.get(path)).text), path
