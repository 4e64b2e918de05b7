"""What the README says to paste works as pasted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import soundfile
from support.paths import ROOT
from support.processes import need

README = (ROOT / "README.md").read_text()
ADDRESS = "http://127.0.0.1:8765"


def blocks() -> list[str]:
    """Give the shell blocks that talk to a running gateway."""
    return [block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "curl" in block]


@pytest.mark.timeout(120)
def test_the_curl_lines_work_as_pasted(tmp_path: Path, shared_gateway: str) -> None:
    need("curl")
    first, second = blocks()
    script = (first + second).replace(ADDRESS, shared_gateway).replace(".venv/bin/", f"{ROOT}/.venv/bin/")
    done = subprocess.run(
        ["bash", "-e"], input=script, cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "SLNG_SIDECAR_URL": shared_gateway},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    samples, rate = soundfile.read(tmp_path / "hello.wav", dtype="int16")
    assert rate == 24_000
    assert 1.5 < len(samples) / rate < 6
    assert soundfile.info(tmp_path / "hello.mp3").duration > 1
    assert (tmp_path / "hello.pcm").stat().st_size > 2 * 16_000 * 0.2
    said = [line for line in done.stdout.splitlines() if not line.startswith(("{", "#", "slng_sidecar"))]
    assert len(said) >= 2, done.stdout  # what curl and what the command wrote down
    assert '"code":"bad_request"' in done.stdout
    assert "is not a model" in done.stdout
    assert "slng_sidecar_upstream_dials_total" in done.stdout


def test_every_setting_in_the_readme_exists_with_the_default_that_it_says() -> None:
    from slng_sidecar.config import Settings

    rows = re.findall(r"^\| (`[A-Z_`, ]+) \| ([^|]+) \|", README, re.MULTILINE)
    assert rows
    for names, defaults in rows:
        fields = [name.strip(" `").lower() for name in names.split(",")]
        values = [value.strip(" `") for value in defaults.split(",")]
        for field, value in zip(fields, values * len(fields) if len(values) == 1 else values, strict=False):
            default = Settings.model_fields[field].default
            if field == "slng_world_part":
                assert value == "us-east"
            else:
                assert str(default) == value or (default in (None, (), {}) and value == "\N{EN DASH}"), field


def test_every_command_in_the_readme_exists() -> None:
    listed = subprocess.run(
        [ROOT / ".venv/bin/slng-sidecar", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for name in re.findall(r"^slng-sidecar (\w+)", README, re.MULTILINE):
        assert re.search(rf"\b{name}\b", listed), name
