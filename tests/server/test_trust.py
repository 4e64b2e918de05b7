"""A sidecar connects and writes only to what docs/explain/trust.md names."""

from __future__ import annotations

import ast
from pathlib import Path

import httpx
import pytest
from slng_sidecar.engines import signal
from support.bots import SIGNAL, SimulatorProcess, simulator_process
from support.paths import ROOT
from support.processes import Running, serving
from support.running import STT_INIT, TTS_INIT, talking

SOURCE = ROOT / "sidecar" / "slng_sidecar"
# Python tells each connection and each look-up of a process; they are written down, and the file is closed at once.
SPY = """
import os, sys
def spy(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        where = arguments[1] if event == "socket.connect" else arguments[:2]
        with open(os.environ["SPIED"], "a") as file:
            file.write(f"{event} {where}\\n")
sys.addaudithook(spy)
"""
# What opens a connection, by the name under which libraries have it.
CONNECTING = {
    *("connect", "unix_connect", "open_connection", "open_unix_connection", "create_connection", "sock_connect"),
    "connect_ex",
    *("AsyncClient", "AsyncHTTPTransport", "ClientSession", "urlopen", "OTLPSpanExporter", "sendto"),
}
WRITING = {"TemporaryFile", "NamedTemporaryFile", "TemporaryDirectory", "mkstemp", "write_text", "write_bytes", "mkdir"}


@pytest.fixture
def spied(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(SPY)
    return {"PYTHONPATH": str(tmp_path), "SPIED": str(tmp_path / "spied.txt")}


def told(spied: dict[str, str]) -> set[str]:
    return set(Path(spied["SPIED"]).read_text().splitlines())


def address(url: str) -> str:
    host, _, port = url.partition("://")[2].rpartition(":")
    return f"socket.connect {(host, int(port))}"


async def use(sidecar: Running, simulator: SimulatorProcess) -> None:
    async with talking(sidecar.url, "stt", SIGNAL, subprotocol="slng-sidecar.v1") as talk:
        await talk.send(STT_INIT, signal.encode([signal.SignalWord(1)]), {"type": "finalize"})
        await talk.until("finalized")
    async with talking(sidecar.url, "tts", SIGNAL) as talk:
        await talk.send(TTS_INIT, {"type": "text", "text": "n1"}, {"type": "flush"})
        await talk.until("audio_end")
    async with httpx.AsyncClient(trust_env=False, base_url=sidecar.url) as client:
        assert (await client.post(f"/v1/bridges/unmute/tts/{SIGNAL}", json={"text": "n1"})).status_code == 200
        for path in ("/v1/models", "/v1/status", "/metrics", "/", "/docs"):
            assert (await client.get(path)).status_code == 200


async def test_a_sidecar_connects_to_its_gateway_and_to_nothing_else(spied: dict[str, str]) -> None:
    async with simulator_process() as simulator:
        settings = {"SLNG_API_KEY": "k", "SLNG_BASE_URL": simulator.url, "SIDECAR_STANDBY": "1"}
        # A proxy of the environment's would get keys and speech, so it has to be asked for.
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
        async with serving(cwd=None, **settings, **proxies, **spied) as sidecar:
            await use(sidecar, simulator)
        connected = {line for line in told(spied) if line.startswith("socket.connect")}
        assert connected == {address(simulator.url)}
        # The other name that is looked up is the one that it listens under.
        looked_up = {line for line in told(spied) if line.startswith("socket.getaddrinfo")}
        assert all("('127.0.0.1', " in line for line in looked_up)
        assert not [line for line in told(spied) if line.startswith("subprocess")]


async def test_a_collector_and_a_proxy_are_used_only_if_they_are_set(spied: dict[str, str]) -> None:
    async with simulator_process() as simulator:
        settings = {"SLNG_API_KEY": "k", "SLNG_BASE_URL": simulator.url}
        async with serving(cwd=None, **settings, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **spied) as sidecar:
            await use(sidecar, simulator)
        connected = {line for line in told(spied) if line.startswith("socket.connect")}
        assert connected == {address(simulator.url), address("http://127.0.0.1:9")}
        Path(spied["SPIED"]).unlink()
        async with (
            serving(
                cwd=None, **settings, SLNG_PROXY_FROM_ENV="true", HTTP_PROXY="http://127.0.0.1:10", **spied
            ) as sidecar,
            httpx.AsyncClient(trust_env=False, base_url=sidecar.url) as client,
        ):
            assert (await client.post(f"/v1/bridges/unmute/tts/{SIGNAL}", json={"text": "n1"})).status_code == 502
        assert address("http://127.0.0.1:10") in told(spied)


def names_in(path: Path, wanted: set[str]) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    return found & wanted


def places(wanted: set[str]) -> dict[str, set[str]]:
    # The simulator and the voices that only the simulator uses are never part of a sidecar's own process.
    apart = {"simulator", "engines"}
    sources = [path for path in SOURCE.rglob("*.py") if apart.isdisjoint(path.relative_to(SOURCE).parts)]
    return {str(path.relative_to(SOURCE)): found for path in sources if (found := names_in(path, wanted))}


def test_every_place_that_opens_a_connection_is_known() -> None:
    assert places(CONNECTING) == {
        "upstream/connection.py": {"connect"},
        "upstream/bridge.py": {"AsyncClient"},
        # Asks with the client of the bridge.
        "server/routes/models.py": {"AsyncClient"},
        # Whether a Unix socket is in use.
        "net/serving.py": {"connect_ex"},
        "telemetry/tracing.py": {"OTLPSpanExporter"},
        # The commands that talk to a running sidecar.
        "cli/address.py": {"AsyncClient", "AsyncHTTPTransport", "connect", "unix_connect"},
    }


def test_every_place_that_writes_a_file_is_known() -> None:
    assert places(WRITING).keys() == {"audio/decoding.py"}
    assert places(WRITING)["audio/decoding.py"] == {"TemporaryFile"}
