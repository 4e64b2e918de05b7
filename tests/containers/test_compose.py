"""The commands of the Docker page as a newcomer pastes them, and the messages if something is missing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browsers import ask_question, browser_page, write_question
from support.paths import ROOT

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

PAGE = (ROOT / "docs/how-to/docker.md").read_text()
OFFLINE = "docker compose --profile offline up"
UNIX = "docker compose -f compose.yaml -f deploy/compose.unix.yaml"
KEY = "slng_cu_of-a-test"
# Runs in the bot's container: speaks through the sidecar's socket and transcribes the result.
TALK_OVER_THE_SOCKET = """
import asyncio, os
import aiohttp

async def main():
    path = os.environ["SLNG_SIDECAR_URL"].removeprefix("unix:")
    async with aiohttp.ClientSession("http://localhost", connector=aiohttp.UnixConnector(path)) as session:
        text = {"text": "n1 n2 n3", "config": {"sample_rate": 16000}}
        async with session.post("/v1/bridges/unmute/tts/slng/simulator/signal:1", json=text) as reply:
            sound = await reply.read()
        async with session.post("/v1/bridges/unmute/stt/slng/simulator/signal:1", data=sound) as reply:
            print(os.getuid(), reply.status, await reply.text())

asyncio.run(main())
"""


def pasted() -> list[str]:
    """Return the page's three shell blocks: offline, with a key, over a Unix socket."""
    offline, with_a_key, over_a_socket = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    return [offline, with_a_key, over_a_socket]


@contextlib.contextmanager
def upstream(network: str, key: str) -> Iterator[None]:
    """Run a simulator as ``slng`` on a network. It accepts one key only."""
    run = ["docker", "run", "--detach", "--rm", "--network", network, "--network-alias", "slng"]
    simulate = ["slng-sidecar-simulator", "simulate", "--host", "0.0.0.0", "--speech", "tone", "--key", key]
    name = subprocess.run([*run, *simulate], check=True, capture_output=True, text=True).stdout.strip()
    follow = subprocess.Popen(["docker", "logs", "--follow", name], stderr=subprocess.PIPE, text=True)
    try:
        # The simulator logs this line once it listens.
        assert follow.stderr is not None
        assert "SLNG simulator at" in follow.stderr.readline()
        yield
    finally:
        subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)
        follow.communicate()


async def test_offline_a_question_into_the_microphone_is_answered(checkout: Any, tmp_path: Path) -> None:
    (line,) = [line for line in pasted()[0].splitlines() if not line.startswith("#")]
    assert line == OFFLINE
    await asyncio.to_thread(write_question, tmp_path / "question.wav")
    with checkout.running(line):
        async with browser_page(tmp_path / "question.wav") as page:
            words = await ask_question(page, checkout.bot)
        assert "call the front desk and ask for a quiet room" in words
        assert sorted(checkout.run("docker compose ps --services").stdout.split()) == ["bot", "sidecar", "simulator"]


def test_compose_up_without_a_key_names_the_remedy_and_does_not_start(checkout: Any) -> None:
    done = checkout.run("docker compose up")
    assert done.returncode != 0
    assert "There is no SLNG key" in done.stdout
    assert "SLNG_API_KEY_FILE" in done.stdout
    assert OFFLINE in done.stdout
    assert "bot" not in checkout.run("docker compose ps --services --status running").stdout.strip()


@pytest.mark.parametrize("name", ["SLNG_API_KEY_FILE", "OPENAI_API_KEY_FILE"])
def test_offline_mode_with_a_key_is_refused(checkout: Any, name: str) -> None:
    (checkout.folder / "key").write_text(KEY)
    done = checkout.run(OFFLINE, **{name: "key"})
    assert done.returncode != 0
    assert f"the profile offline takes none, so leave {name} empty" in done.stdout
    assert not checkout.run("docker compose ps --services --status running").stdout.strip()


def test_a_missing_key_file_is_named(checkout: Any) -> None:
    done = checkout.run("docker compose up", SLNG_API_KEY_FILE="secrets/nowhere")
    assert done.returncode != 0
    assert "secrets/nowhere" in done.stdout


def test_each_container_gets_only_its_own_key_files(checkout: Any) -> None:
    script = pasted()[1].replace("docker compose up", "docker compose up --detach --wait")
    for name in ("OPENAI_API_KEY", "SIDECAR_TOKEN", "SLNG_PROVIDER_KEY"):
        (checkout.folder / "secrets").mkdir(exist_ok=True)
        (checkout.folder / "secrets" / name).write_text(f"the-{name}\n")
    more = {f"{path.name}_FILE": f"secrets/{path.name}" for path in (checkout.folder / "secrets").iterdir()}
    done = checkout.run(script, SLNG_API_KEY=KEY, SLNG_BASE_URL="ws://slng:9100", **more)
    assert done.returncode == 0, done.stdout

    with upstream("slng-sidecar-test_default", KEY):
        done = checkout.run("docker compose exec -T sidecar slng-sidecar check")
        assert done.stdout.count("ready after") == 2, done.stdout
    done = checkout.run("docker compose exec -T sidecar sh -c 'env; cat /run/secrets/*'")
    assert {KEY, "the-SIDECAR_TOKEN", "the-SLNG_PROVIDER_KEY"} <= set(done.stdout.split())
    assert "OPENAI" not in done.stdout
    done = checkout.run("docker compose exec -T bot sh -c 'env; cat /run/secrets/*'")
    assert {"the-SIDECAR_TOKEN", "the-OPENAI_API_KEY"} <= set(done.stdout.split())
    assert KEY not in done.stdout
    assert "SLNG_PROVIDER_KEY" not in done.stdout
    # No key is among the container's settings, which 'docker inspect' shows.
    settings = checkout.run("docker inspect $(docker compose ps --quiet)").stdout
    assert not [key for key in (KEY, "the-OPENAI_API_KEY", "the-SIDECAR_TOKEN") if key in settings]

    # The key is changed inside its file. The container would not see a file that replaces it.
    (checkout.folder / "secrets/slng_api_key").write_text("another-key")
    assert checkout.run("docker compose exec -T sidecar cat /run/secrets/slng_api_key").stdout == "another-key"

    asked = "import sys; sys.path.append('/opt/bot'); import bot; print(type(bot.language_model()).__name__)"
    assert "OpenAILLMService" in checkout.run(f'docker compose exec -T bot python -c "{asked}"').stdout


def test_a_unix_socket_on_a_volume_replaces_the_port(checkout: Any) -> None:
    lines = [line for line in pasted()[2].splitlines() if not line.startswith("#")]
    assert lines == [f"{UNIX} up"]
    up = f"{UNIX} --profile offline up --detach --wait"
    done = checkout.run(up)
    assert done.returncode == 0, done.stdout

    assert checkout.run(f"{UNIX} ps --format '{{{{.Ports}}}}' sidecar").stdout.strip() in ("", "8765/tcp")
    (checkout.folder / "talk.py").write_text(TALK_OVER_THE_SOCKET)
    talk = f"{UNIX} exec -T bot python - < talk.py"
    done = checkout.run(talk)
    assert done.stdout.startswith("10002 200 "), done.stdout
    assert "n1 n2 n3" in done.stdout

    # Only members of the socket's group have access.
    wait = "docker run --rm --user 12345 --volume slng-sidecar-test_socket:/run/slng slng-sidecar wait --timeout 1"
    for group, code in (("12345", 1), ("10001", 0)):
        done = checkout.run(f"{wait.replace('--rm', f'--rm --group-add {group}')} --url unix:/run/slng/sidecar.sock")
        assert done.returncode == code, done.stdout

    # A killed sidecar leaves its socket behind, and the next sidecar replaces it.
    done = checkout.run(f"{UNIX} kill sidecar && {up}")
    assert done.returncode == 0, done.stdout
    assert "n1 n2 n3" in checkout.run(talk).stdout
