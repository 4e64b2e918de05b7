"""The command as a person or a script uses it, with real processes and files."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import wave
from pathlib import Path
from typing import Any

import httpx
import pytest
from slng_sidecar.engines import signal as numbered
from support.processes import run, serving, started


async def test_without_a_key_the_error_says_what_to_do() -> None:
    done = await run("serve")
    assert done.code == 1
    assert "SLNG_API_KEY" in done.err
    assert "--simulate" in done.err


async def test_without_a_key_a_running_simulator_is_used() -> None:
    async with started("simulate", "--port", "0", "--speech", "signal") as simulator:
        url = (await simulator.says(r"at (ws://\S+)")).group(1)
        async with serving("--simulator", url) as gateway:
            assert "A simulator stands in for SLNG" in gateway.err
            done = await run("say", "n1", "-o", "-", "--model", "slng/simulator/signal:1", "--url", gateway.url)
            assert done.code == 0, done.err
        # A key means SLNG; the simulator is not even looked for.
        async with serving("--simulator", url, SLNG_API_KEY="k") as gateway:
            assert "upstream https://us-east.api.slng.ai" in gateway.err


async def test_without_a_key_or_a_simulator_the_error_says_what_to_do(signal_gateway: str) -> None:
    # The last one listens and answers, but is no simulator.
    for url in ("ws://127.0.0.1:9", "ws://no.such.host.invalid:9100", "simulator:9100", signal_gateway):
        done = await run("serve", "--port", "0", "--simulator", url)
        assert done.code == 1
        assert "There is no SLNG key" in done.err
        assert f"no simulator answers at {url}" in done.err
        assert "SLNG_API_KEY_FILE" in done.err
        assert "--profile offline" in done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({"SLNG_WORLD_PART": "eu-central"}, "SLNG_WORLD_PART=eu-central: There is no gateway"),
        ({"SIDECAR_PORT": "many"}, "SIDECAR_PORT=many"),
        ({"SIDECAR_HOST": "0.0.0.0"}, "SIDECAR_TOKEN"),
        ({"SIDECAR_HOST": "no.such.host.invalid", "SIDECAR_TOKEN": "t"}, "not an address to listen on"),
        ({"SLNG_BASE_URL": "ftp://x"}, "SLNG_BASE_URL"),
        ({"SLNG_API_KEY_FILE": "/nowhere/key", "SLNG_API_KEY": ""}, "SLNG_API_KEY_FILE=/nowhere/key"),
    ],
)
async def test_an_invalid_setting_is_named(env: dict[str, str], says: str) -> None:
    everything: dict[str, Any] = {"SLNG_API_KEY": "k", **env}
    done = await run("serve", **everything)
    assert done.code == 1
    assert says in done.err
    assert "Traceback" not in done.err


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = await run("serve", "--simulate", "--port", str(port))
        assert done.code == 1
        assert f"Port {port}" in done.err
        assert "Traceback" not in done.err


async def test_serve_help_lists_every_setting() -> None:
    from slng_sidecar.config import Settings

    done = await run("serve", "--help", COLUMNS="200")
    assert done.code == 0
    for name in Settings.model_fields:
        assert name.upper() in done.out


async def test_sigterm_stops_the_gateway_and_its_simulator() -> None:
    async with serving("--simulate") as gateway:
        children = _children(gateway.process.pid)
        assert children
        gateway.process.send_signal(signal.SIGTERM)
        assert await gateway.ends() == 0
        assert not [pid for pid in children if _alive(pid)]


async def test_a_killed_gateway_leaves_no_simulator_behind() -> None:
    async with serving("--simulate") as gateway:
        children = _children(gateway.process.pid)
        gateway.process.kill()
        await gateway.ends()
        async with asyncio.timeout(10):
            while any(_alive(pid) for pid in children):
                await asyncio.sleep(0.05)
        gateway.code = 0


async def test_wait_and_check_report_the_state_of_the_sidecar() -> None:
    async with started("simulate", "--port", "0", "--speech", "tone") as simulator:
        upstream = (await simulator.says(r"at (ws://\S+)")).group(1)
        async with serving(SLNG_API_KEY="k", SLNG_BASE_URL=upstream) as gateway:
            assert (await run("wait", "--url", gateway.url)).code == 0
            done = await run("check", SLNG_API_KEY="k", SLNG_BASE_URL=upstream)
            assert done.code == 0, done.err
            assert done.out.count("ready after") == 2
            url = gateway.url
        done = await run("wait", "--url", url, "--timeout", "0")
        assert done.code == 1
        assert f"No sidecar answers at {url}" in done.err
    done = await run("check", SLNG_API_KEY="k", SLNG_BASE_URL=upstream)
    assert done.code == 1
    assert "upstream_unreachable" in done.out
    assert (await run("check")).code == 1


@pytest.mark.parametrize("asked_for", [False, True])
async def test_a_proxy_of_the_environment_is_used_only_if_the_settings_allow_it(asked_for: bool) -> None:
    nobody = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY"), nobody)
    async with started("simulate", "--port", "0", "--speech", "tone") as simulator:
        upstream = (await simulator.says(r"at (ws://\S+)")).group(1)
        env: dict[str, Any] = {
            "SLNG_API_KEY": "k",
            "SLNG_BASE_URL": upstream,
            "SLNG_PROXY_FROM_ENV": str(asked_for),
            **proxies,
        }
        done = await run("check", **env, no_proxy="")
        assert (done.code == 0) is not asked_for, done.out


async def test_say_and_transcribe_keep_every_word(tmp_path: Path, signal_gateway: str) -> None:
    to = ("--model", "slng/simulator/signal:1", "--url", signal_gateway)
    wav = tmp_path / "said.wav"
    done = await run("say", "n1 n2 n3 n4", "-o", wav, "--sample-rate", "16000", *to)
    assert done.code == 0, done.err
    with wave.open(str(wav)) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (16000, 1, 2)
        assert sound.getnframes() * 2 == wav.stat().st_size - 44
        assert [w.number for w in numbered.decode(sound.readframes(sound.getnframes()))] == [1, 2, 3, 4]
    done = await run("transcribe", wav, "--pace", "0", *to)
    assert done.code == 0, done.err
    assert done.out.split() == ["n1", "n2", "n3", "n4"]
    assert done.err == ""


async def test_say_writes_to_a_pipe_and_reads_from_one(signal_gateway: str) -> None:
    model = "slng/simulator/signal:1"
    done = await run("say", "-", "-o", "-", "--url", signal_gateway, stdin=b"n1", SLNG_TTS_MODEL=model)
    assert done.code == 0
    assert done.out.startswith("RIFF")
    assert done.err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("transcribe", "nowhere.wav"), "no file nowhere.wav"),
        (("transcribe", "text.wav"), "not a PCM WAV file"),
        (("transcribe", "stereo.wav"), "2 channels"),
        (("transcribe", "empty.wav"), "no sound"),
        (("transcribe", "good.wav", "--model", "nova"), "not a model"),
        (("transcribe", "good.wav", "--model", "slng/never/heard:1"), "config_error"),
        (("say", " ", "-o", "out.wav"), "nothing to say"),
        (("say", "hello", "-o", "nowhere/out.wav"), "cannot be written"),
        (("say", "hello", "-o", "."), "cannot be written"),
        (("say", "hello", "-o", "out.wav", "--model", "slng/never/heard:1"), "config_error"),
        (("say", "hello", "-o", "out.wav", "--url", "gopher://x"), "not a sidecar's address"),
        (("say", "hello", "-o", "out.wav", "--url", "http://127.0.0.1:9"), "No sidecar answers"),
        (("transcribe", "good.wav", "--url", "http://127.0.0.1:9"), "No sidecar answers"),
        (("simulate", "--speech", "sung"), "--speech"),
        (("simulate", "--set", "nonsense=1", "--port", "0"), "nonsense"),
        (("simulate", "--faults", "text.wav", "--port", "0"), "not JSON"),
        (("serve", "--config", "nowhere.toml"), "no settings file"),
    ],
)
async def test_a_failure_is_reported_in_one_line(
    tmp_path: Path, signal_gateway: str, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "text.wav").write_text("not sound")
    for name, channels, frames in (("stereo", 2, 100), ("empty", 1, 0), ("good", 1, 1600)):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as sound:
            sound.setparams((channels, 2, 16000, 0, "NONE", ""))
            sound.writeframes(bytes(2 * channels * frames))
    done = await run(*arguments, cwd=tmp_path, SLNG_SIDECAR_URL=signal_gateway)
    assert done.code == 1, done
    assert says in done.err
    assert done.err.startswith("slng-sidecar: ")
    assert "Traceback" not in done.err
    assert not list(tmp_path.glob("out.wav*"))


async def test_a_toml_file_and_an_env_file_are_read(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('SIDECAR_MAX_SESSIONS = 7\nslng_api_key = "from-toml"\n')
    (tmp_path / ".env").write_text("SIDECAR_TOKEN=from-env-file\nOPENAI_API_KEY=someone-else-s\n")
    files = ("--config", tmp_path / "s.toml", "--env-file", tmp_path / ".env")
    async with serving(*files) as gateway, httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        assert (await http.get("/v1/status")).status_code == 401
        reply = await http.get("/v1/status", headers={"Authorization": "Bearer from-env-file"})
        assert reply.json()["max_sessions"] == 7


async def test_a_unix_socket_works_too(tmp_path: Path, signal_simulator: str) -> None:
    path = tmp_path / "sidecar.sock"
    async with started("serve", "--simulator", signal_simulator, "--uds", path) as gateway:
        await gateway.says(r"at unix:")
        wav = tmp_path / "out.wav"
        model = "slng/simulator/signal:1"
        done = await run("say", "n1 n2", "-o", wav, "--model", model, "--sample-rate", "16000", "--url", f"unix:{path}")
        assert done.code == 0, done.err
        done = await run("transcribe", wav, "--model", model, "--pace", "0", "--url", f"unix:{path}")
        assert done.out.split() == ["n1", "n2"]


async def test_the_socket_of_a_killed_gateway_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    for code in (-signal.SIGKILL, 0):
        async with started("serve", "--uds", path, SLNG_API_KEY="k") as gateway:
            await gateway.says(r"at unix:")
            assert (await run("wait", "--url", f"unix:{path}", "--timeout", "5")).code == 0
            gateway.process.send_signal(signal.SIGTERM if code == 0 else signal.SIGKILL)
            assert await gateway.ends() == code
            assert path.is_socket()


async def test_wait_uses_the_address_in_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    async with serving(SLNG_API_KEY="k") as gateway, started("serve", "--uds", path, SLNG_API_KEY="k") as other:
        await other.says(r"at unix:")
        # As in a container, whose health check has the environment of the sidecar.
        port = gateway.url.rpartition(":")[2]
        everywhere: dict[str, Any] = {"SIDECAR_HOST": "0.0.0.0", "SIDECAR_PORT": port}
        assert (await run("wait", "--timeout", "5", **everywhere)).code == 0
        assert (await run("wait", "--timeout", "5", SIDECAR_UDS=str(path), SIDECAR_PORT="1")).code == 0
        assert (await run("wait", "--timeout", "5", SIDECAR_UDS="/nowhere", SLNG_SIDECAR_URL=gateway.url)).code == 0


@pytest.mark.parametrize(
    ("env", "url"),
    [
        ({"SIDECAR_UDS": "/nowhere/s.sock"}, "unix:/nowhere/s.sock"),
        ({"SIDECAR_PORT": "9"}, "http://127.0.0.1:9"),
        ({"SIDECAR_PORT": "9", "SIDECAR_HOST": "::"}, "http://127.0.0.1:9"),
        ({"SIDECAR_PORT": "9", "SIDECAR_HOST": "::1"}, "http://[::1]:9"),
        ({"SIDECAR_PORT": "9", "SIDECAR_HOST": "127.0.0.2"}, "http://127.0.0.2:9"),
        ({"SIDECAR_PORT": "9", "SLNG_SIDECAR_URL": "http://127.0.0.3:9"}, "http://127.0.0.3:9"),
    ],
)
async def test_wait_names_the_address_that_it_asks(env: dict[str, Any], url: str) -> None:
    done = await run("wait", "--timeout", "0", **env)
    assert done.code == 1
    assert f"No sidecar answers at {url}." in done.err


async def test_no_key_is_ever_in_the_log(tmp_path: Path) -> None:
    secret = "never-to-be-seen-4711"
    async with (
        serving(SLNG_API_KEY=secret, SLNG_BASE_URL="ws://127.0.0.1:9", SIDECAR_LOG_LEVEL="debug") as gateway,
        httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http,
    ):
        reply = await http.post("/v1/bridges/unmute/tts/slng/deepgram/aura:2-en?token=x", json={"text": "secret words"})
        assert reply.status_code == 502
        assert secret not in reply.text
        await http.get(f"/v1/status?token={secret}")
    assert secret not in gateway.err
    assert "secret words" not in gateway.err


def test_version_prints_the_version() -> None:
    import subprocess

    from slng_sidecar import __version__
    from support.processes import COMMAND

    assert subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True).stdout == (
        f"slng-sidecar {__version__}\n"
    )


def _children(pid: int) -> list[int]:
    """Return the descendants of a process, from /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(path.parent.name)
            found += [child, *_children(child)]
    return found


def _alive(pid: int) -> bool:
    try:
        return re.search(r"\) Z ", Path(f"/proc/{pid}/stat").read_text()) is None
    except OSError:
        return False
