"""The commands and snippets of the README and the pages work as pasted."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import soundfile
from support.paths import ROOT
from support.processes import need

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8765"


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page that are in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def paste(page: str, folder: Path, gateway: str) -> str:
    """Run a page's shell blocks that use curl, in one shell, and return what they print."""
    script = "".join(block for block in blocks(page, "sh") if "curl http" in block)
    script = script.replace(ADDRESS, gateway).replace(".venv/bin/", f"{ROOT}/.venv/bin/")
    done = subprocess.run(
        ["bash", "-e"], input=script, cwd=folder, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "SLNG_SIDECAR_URL": gateway},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", ["README.md", "docs/start/first-call.md"])
def test_a_newcomers_commands_speak_and_transcribe(page: str, tmp_path: Path, shared_gateway: str) -> None:
    need("curl")
    printed = paste(page, tmp_path, shared_gateway)
    samples, rate = soundfile.read(tmp_path / "hello.wav", dtype="int16")
    assert rate == 24_000
    assert 1.5 < len(samples) / rate < 6
    assert len(printed.splitlines()[0].split()) > 3, printed


@pytest.mark.timeout(120)
def test_the_commands_of_the_http_page_work_as_pasted(tmp_path: Path, shared_gateway: str) -> None:
    need("curl")
    printed = paste("docs/reference/http.md", tmp_path, shared_gateway)
    assert soundfile.info(tmp_path / "hello.wav").samplerate == 24_000
    assert soundfile.info(tmp_path / "hello.mp3").duration > 1
    assert (tmp_path / "hello.pcm").stat().st_size > 2 * 16_000 * 0.2
    first = printed.splitlines()[0]
    assert first, printed
    assert not first.startswith("{")  # the text that curl -F response_format=text printed
    assert '"type":"transcription"' in printed
    assert '"sessions":' in printed
    assert "slng_sidecar_upstream_dials_total" in printed
    assert '"code":"bad_request"' in printed
    assert "is not a model" in printed


def python_block(marker: str, gateway: str) -> str:
    [block] = [block for block in blocks("README.md", "python") if marker in block]
    return block.replace(ADDRESS, gateway).replace(ADDRESS.replace("http", "ws"), gateway.replace("http", "ws"))


def test_the_openai_snippet_writes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_gateway: str) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_block("OpenAI(", shared_gateway), names)
    names["client"].close()  # type: ignore[attr-defined] # it is the snippet's
    assert soundfile.info(tmp_path / "hi.wav").duration > 0.2


def test_the_websocket_snippet_collects_audio(shared_gateway: str) -> None:
    names: dict[str, object] = {}
    body = textwrap.indent(python_block("websockets.connect", shared_gateway), "    ")
    exec(f"import json, websockets\nasync def talk():\n{body}    return audio\n", names)
    audio = asyncio.run(names["talk"]())  # type: ignore[operator] # it is the function of the line above
    assert len(audio) > 24_000 * 2 * 0.2


def test_the_pipecat_snippet_builds_both_services() -> None:
    names: dict[str, object] = {}
    exec(python_block("pipecat_slng_sidecar", ADDRESS), names)
    assert {"stt", "tts"} <= names.keys()


def test_every_command_on_the_pages_exists() -> None:
    printed = subprocess.run(
        [ROOT / ".venv/bin/slng-sidecar", "--help"], capture_output=True, text=True, check=True
    ).stdout
    named = {
        name
        for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
        for name in re.findall(r"slng-sidecar (serve|simulate|check|wait|say|transcribe)\b", page.read_text())
    }
    assert named
    for name in named:
        assert re.search(rf"\b{name}\b", printed), name


def test_the_json_on_the_error_page_is_an_error() -> None:
    from slng_sidecar.protocol.errors import GatewayError

    shown = json.loads(re.sub("…", "", blocks("docs/reference/errors.md", "json")[0]))
    assert shown.keys() == GatewayError("upstream_timeout", "").as_message().keys()
