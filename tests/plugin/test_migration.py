"""Bots that were written for ``pipecat-slng`` run on this plugin if only the import is changed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import urllib.request
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from slng_sidecar.engines import signal
from support.paths import TESTS
from support.processes import serving
from support.transports import RoomTransport

pytestmark = pytest.mark.slow

BOTS = TESTS / "plugin" / "bots"
WAIT = 20.0
PAUSE = bytes(int(1.2 * 16_000) * 2)
TURNS = (range(1, 6), range(16, 21), range(21, 26))
WORDS = [f"n{number}" for turn in TURNS for number in turn]
OLD_IMPORT, NEW_IMPORT = "from pipecat_slng import ", "from pipecat_slng_sidecar import "


def bot(name: str, folder: Path | None = None) -> ModuleType:
    """Load a bot. If there is a folder, write the bot to it with the changed import first."""
    path = BOTS / f"{name}.py"
    if folder is not None:
        source = path.read_text()
        assert source.count(OLD_IMPORT) == source.count("pipecat_slng") == 1, "more than the import would be changed"
        path = folder / path.name
        path.write_text(source.replace(OLD_IMPORT, NEW_IMPORT))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(url: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as response:
        return json.loads(response.read())


async def upstream_log(sidecar: str) -> list[dict[str, Any]]:
    """Return the records of the simulator behind a sidecar."""
    gateway = (await asyncio.to_thread(ask, f"{sidecar}/v1/status"))["gateway"]
    log = await asyncio.to_thread(ask, gateway.replace("ws:", "http:") + "/_sim/log")
    records: list[dict[str, Any]] = log["records"]
    return records


def opened(records: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the ``init`` of each connection of a kind."""
    return [record["received"][0] for record in records if record["kind"] == kind]


def played(room: RoomTransport) -> list[str]:
    """Return the words that were played so far. A part of a word is named as such."""
    return [word.text for word in signal.decode(room.played(), room.out_rate)] if room.out_rate else []


def region(record: dict[str, Any]) -> str | None:
    """Return the data centre that a connection or a request asked for."""
    asked: str | None = record["headers"].get("x-region-override") or record["query"].get("region")
    return asked


def was_played(room: RoomTransport, word: str) -> bool:
    return word in played(room)


async def until(condition: Any) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.05)


async def talk_with(module: ModuleType) -> RoomTransport:
    """Speak ``WORDS`` to a bot, one turn after the other, wait until it has repeated them, and return the room."""
    room = RoomTransport()
    running = asyncio.create_task(module.run_bot(room))
    try:
        await room.ready()
        await room.enter()
        for turn in TURNS:
            pcm = signal.encode([signal.SignalWord(number, gap=2 if number % 4 == 0 else 0) for number in turn])
            await room.speak(pcm + PAUSE, 16_000)
            await until(partial(was_played, room, f"n{turn[-1]}"))
        await room.leave()
        await asyncio.wait_for(running, WAIT)
    finally:
        running.cancel()
    return room


def set_up(monkeypatch: pytest.MonkeyPatch, sidecar: str, **settings: str) -> None:
    for name, value in {"SLNG_API_KEY": "a-key-of-slng", "SLNG_SIDECAR_URL": sidecar, **settings}.items():
        monkeypatch.setenv(name, value)


async def test_a_bot_for_0_7_0_runs_on_this_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = bot("written_for_0_7_0", tmp_path)
    model = "simulator/signal:1"
    async with serving("--simulate", cwd=tmp_path) as sidecar:
        set_up(monkeypatch, sidecar.url, SLNG_STT_MODEL=model, SLNG_TTS_MODEL=model, SLNG_PROVIDER_KEY="of-a-provider")
        room = await talk_with(module)
        log = await upstream_log(sidecar.url)
    assert " ".join(module.TRANSCRIPT).split() == WORDS
    assert played(room) == WORDS
    for record in log:
        headers = record["headers"]
        assert (headers["x-slng-agent-id"], headers["x-slng-session-id"]) == ("concierge", "call-1")
        assert "x-slng-provider-key" in headers
    stt_inits = opened(log, "stt")
    assert [each["config"]["language"] for each in stt_inits] == ["en-US", "de"]
    assert [each["config"]["enable_partials"] for each in stt_inits] == [True, False]
    assert {each["config"]["encoding"] for each in stt_inits} == {"linear16"}
    # The bot requests a warm standby, so the sidecar opens standby connections too.
    used = [record for record in log if any(message["type"] == "text" for message in record["received"])]
    tts_inits = opened(used, "tts")
    assert [(each["voice"], each["config"]["speed"]) for each in tts_inits] == [
        ("aura-2-thalia-en", 1.1),
        ("aura-2-apollo-en", 0.9),
    ]
    for each in tts_inits:
        assert each["config"]["language"] == "en"
        assert each["config"]["sample_rate"] == 24_000
        assert each["config"]["pronunciation"] == {"mode": "rewrite", "name": "support-pronunciations"}


@pytest.mark.parametrize("way", ["websocket", "http"])
async def test_a_bot_for_0_4_0_runs_on_this_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    module = bot("written_for_0_4_0", tmp_path)
    model = "slng/simulator/signal:1"
    async with serving("--simulate", cwd=tmp_path) as sidecar:
        set_up(monkeypatch, sidecar.url, SLNG_STT_MODEL=model, SLNG_TTS_MODEL=model, SLNG_TTS=way)
        room = await talk_with(module)
        log = await upstream_log(sidecar.url)
    assert " ".join(module.TRANSCRIPT).split() == WORDS
    assert played(room) == WORDS
    stt_inits = opened(log, "stt")
    assert [(each["config"]["language"], each["config"]["enable_vad"]) for each in stt_inits] == [
        ("en", True),
        ("de", True),
    ]
    spoken = [record for record in log if record["kind"] in ("tts", "http")]
    assert [region(record) for record in log if record["kind"] == "stt"] == ["eu-north-1"] * 2
    assert {region(record) for record in spoken} == {"us-east-1"}
    voices = [record["received"][0]["voice"] for record in spoken]
    if way == "http":
        # There is one request for each turn. SLNG's HTTP bridge has no speed, so the sidecar then uses the WebSocket
        # bridge.
        assert [record["kind"] for record in spoken] == ["http", "tts", "tts"]
        assert voices == ["aura-2-thalia-en", "aura-2-apollo-en", "aura-2-apollo-en"]
    else:
        assert voices == ["aura-2-thalia-en", "aura-2-apollo-en"]
        assert [each["config"]["speed"] for each in opened(log, "tts")] == [1.1, 0.9]


def test_the_bot_for_0_7_0_runs_on_the_official_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(monkeypatch, "http://127.0.0.1:1")
    module = bot("written_for_0_7_0")
    for service in (module.new_stt(), module.new_tts()):
        assert type(service).__module__.startswith("pipecat_slng.")
