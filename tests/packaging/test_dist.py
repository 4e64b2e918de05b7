"""The packages that ``make dist`` has built, installed the way a user installs them.

These tests install the wheels in ``dist/`` into new virtual environments, so a module, a data file or a dependency that
is missing from a wheel shows here. The working tree cannot hide it.
"""

from __future__ import annotations

import asyncio
import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import httpx
import numpy as np
import pipecat_slng_sidecar
import pytest
import slng_sidecar
import soundfile
from support.processes import serving, started
from support.sentences import words_of

pytestmark = [pytest.mark.dist, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
VERSIONS = {"slng_sidecar": slng_sidecar.__version__, "pipecat_slng_sidecar": pipecat_slng_sidecar.__version__}
SENTENCE = "Please call the front desk and ask for a quiet room."

both_packages = pytest.mark.parametrize("package", VERSIONS)


def built(pattern: str) -> Path:
    """Return the one file in ``dist/`` that matches."""
    found = sorted(DIST.glob(pattern))
    assert len(found) == 1, f"dist/ must hold one {pattern}, not {found}; make dist builds it"
    return found[0]


def wheel(package: str) -> Path:
    return built(f"{package}-{VERSIONS[package]}-py3-none-any.whl")


@dataclass(frozen=True)
class Environment:
    """A virtual environment that holds nothing but what was installed into it from the wheels."""

    bin: Path

    @property
    def command(self) -> Path:
        return self.bin / "slng-sidecar"

    def run_python(self, *arguments: str) -> str:
        """Run its interpreter in isolated mode, so that the working directory is not importable."""
        return _run(self.bin / "python", "-I", *arguments)


def _run(*command: str | Path) -> str:
    # An environment variable or working directory could make the tree importable.
    done = subprocess.run(command, cwd=DIST, capture_output=True, text=True, check=False, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _install(folder: Path, *requirements: str) -> Environment:
    venv.create(folder, symlinks=True)
    environment = Environment(folder / "bin")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", environment.bin / "python")
    _run(*pip, "install", "--quiet", "--constraint", ROOT / "constraints.txt", *requirements)
    _run(*pip, "check")
    return environment


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Install the sidecar without extras."""
    folder = tmp_path_factory.mktemp("bare")
    yield _install(folder, f"slng-sidecar @ {wheel('slng_sidecar').as_uri()}")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def fallback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Install the sidecar with the offline speech that every platform has."""
    folder = tmp_path_factory.mktemp("fallback")
    yield _install(folder, f"slng-sidecar[simulator] @ {wheel('slng_sidecar').as_uri()}")
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """Install the sidecar with its extras for offline speech, and the plugin beside it."""
    folder = tmp_path_factory.mktemp("full")
    yield _install(
        folder,
        f"slng-sidecar[codecs,simulator-neural] @ {wheel('slng_sidecar').as_uri()}",
        f"pipecat-slng-sidecar @ {wheel('pipecat_slng_sidecar').as_uri()}",
    )
    shutil.rmtree(folder)  # Pipecat takes about 1 GB, and pytest would keep the last three of them


async def say(environment: Environment, url: str, out: Path) -> None:
    """Run ``slng-sidecar say`` and check that the WAV file holds audible sound."""
    async with started("say", SENTENCE, "-o", out, "--url", url, command=(environment.command,)) as saying:
        assert await saying.ends() == 0, saying.err
    samples, rate = soundfile.read(out, dtype="int16")
    assert len(samples) > rate, "the sentence takes longer than a second to say"
    assert np.abs(samples).max() > 1000


@both_packages
def test_a_wheel_holds_the_package_its_types_and_its_licence(package: str) -> None:
    with zipfile.ZipFile(wheel(package)) as archive:
        names = archive.namelist()
    information = f"{package}-{VERSIONS[package]}.dist-info"
    assert {name.partition("/")[0] for name in names} == {package, information}
    assert {f"{package}/py.typed", f"{information}/licenses/LICENSE"} <= set(names)


@both_packages
def test_a_wheel_holds_every_file_of_the_package(package: str) -> None:
    folder = next(ROOT.glob(f"*/{package}"))
    tracked = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    with zipfile.ZipFile(wheel(package)) as archive:
        assert {f"{package}/{name}" for name in tracked} <= set(archive.namelist())


@both_packages
def test_a_source_distribution_holds_what_a_build_needs(package: str) -> None:
    stem = f"{package}-{VERSIONS[package]}"
    with tarfile.open(built(f"{stem}.tar.gz")) as archive:
        names = {name.removeprefix(f"{stem}/") for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", f"{package}/__init__.py"} <= names


@both_packages
def test_the_metadata_is_complete(package: str) -> None:
    with zipfile.ZipFile(wheel(package)) as archive:
        text = archive.read(f"{package}-{VERSIONS[package]}.dist-info/METADATA").decode()
    metadata: Message = email.message_from_string(text)
    assert metadata["License-Expression"] == "BSD-2-Clause"
    assert metadata["Description-Content-Type"] == "text/markdown"
    for field in ("Summary", "Author", "Keywords", "Classifier", "Project-URL", "Requires-Python"):
        assert metadata[field], field


async def test_the_sidecar_without_extras_serves_and_says_a_sentence(bare: Environment, tmp_path: Path) -> None:
    # Without flite on the path there is no voice.
    path = os.fspath(bare.bin)
    async with serving("--simulate", cwd=tmp_path, command=(bare.command,), PATH=path) as sidecar:
        assert "voice: a tone" in sidecar.err
        await say(bare, sidecar.url, tmp_path / "x.wav")


async def transcribe(environment: Environment, url: str, file: Path) -> list[str]:
    """Run ``slng-sidecar transcribe`` and return the words that it prints."""
    process = await asyncio.create_subprocess_exec(
        environment.command, "transcribe", file, "--url", url, "--pace", "4", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return words_of(out.decode())


async def test_the_fallback_says_a_sentence_and_understands_some_of_it(fallback: Environment, tmp_path: Path) -> None:
    # Without flite on the path the simulator must find the voice that the `simulator` extra has installed.
    settings = {"PATH": os.fspath(fallback.bin), "SIDECAR_CONFIDENCE_THRESHOLD": "0"}
    async with serving("--simulate", cwd=tmp_path, command=(fallback.command,), **settings) as sidecar:
        assert "voice: eSpeak NG, recognizer: PocketSphinx" in sidecar.err
        await say(fallback, sidecar.url, tmp_path / "x.wav")
        assert len(set(words_of(SENTENCE)) & set(await transcribe(fallback, sidecar.url, tmp_path / "x.wav"))) >= 3


async def test_the_sidecar_with_extras_says_a_sentence_and_understands_it(full: Environment, tmp_path: Path) -> None:
    path = os.fspath(full.bin)
    async with serving("--simulate", cwd=tmp_path, command=(full.command,), PATH=path) as sidecar:
        assert "voice: Hibari and eSpeak NG, recognizer: Moonshine" in sidecar.err
        await say(full, sidecar.url, tmp_path / "x.wav")
        assert await transcribe(full, sidecar.url, tmp_path / "x.wav") == words_of(SENTENCE)
        # MP3 needs the `codecs` extra.
        body = {"model": "tts-1", "voice": "alloy", "response_format": "mp3", "input": SENTENCE}
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            reply = await client.post(f"{sidecar.url}/v1/audio/speech", json=body)
        assert reply.status_code == 200, reply.text
        (tmp_path / "x.mp3").write_bytes(reply.content)
        assert soundfile.info(tmp_path / "x.mp3").duration > 1


def test_the_plugin_is_imported_from_its_wheel(full: Environment) -> None:
    script = "import json, pipecat_slng_sidecar as p; print(json.dumps([p.__file__, p.__version__, p.__all__]))"
    # Pipecat writes a banner to standard output or standard error when it is imported.
    file, version, names = json.loads(full.run_python("-c", script).splitlines()[-1])
    assert Path(file).is_relative_to(full.bin.parent)
    assert version == VERSIONS["pipecat_slng_sidecar"]
    assert names == pipecat_slng_sidecar.__all__
