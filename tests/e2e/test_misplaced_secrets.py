"""A secret in the wrong place is not repeated in the error message about it."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipecat_slng_sidecar.options import Address as PluginsAddress
from slng_sidecar.cli.address import SidecarAddress
from slng_sidecar.config import load_settings
from slng_sidecar.keys import SECRETS, ConfigError
from slng_sidecar.telemetry.log import setup_logging
from support.paths import ROOT

KEY = "sk-slng-1f0c9b7e5d"
# Like the key of a provider that uses base64, which contains slashes.
SLASHED = "c2VjcmV0/5+f1f0c9b7e5d=="


def complaint() -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    return str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("key", [KEY, SLASHED, KEY * 20])
def test_a_key_in_the_place_of_its_file_s_path_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    monkeypatch.setenv(f"{name.upper()}_FILE", key)
    text = complaint()
    assert f"{name.upper()}_FILE takes the path of a file" in text
    assert key not in text


@pytest.mark.parametrize("path", ["/run/secrets/no-such", "../no-such", "~/no-such", "tests/no-such", "."])
def test_a_value_that_looks_like_a_path_is_shown(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SLNG_API_KEY_FILE", path)
    assert f"SLNG_API_KEY_FILE={Path(path)} cannot be used" in complaint()


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{KEY}@api.slng.ai",
        f"https://{KEY}@api.slng.ai",
        f"user:{KEY}@api.slng.ai",
        f"https://user:a/{KEY}@x@api.slng.ai",
        f"https://api.slng.ai?key={KEY}",
        f"https://api.slng.ai/#{KEY}",
    ],
)
def test_a_base_url_with_a_secret_in_it_is_refused_without_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SLNG_BASE_URL", url)
    text = complaint()
    assert "SLNG_BASE_URL=" in text
    assert "api.slng.ai" in text
    assert KEY not in text


@pytest.mark.parametrize("url", [f"http://user:{KEY}@sidecar:8765", f"user:{KEY}@sidecar:8765"])
def test_the_address_of_the_sidecar_is_shown_without_its_credentials(url: str) -> None:
    for make in (lambda: PluginsAddress.of(url), lambda: SidecarAddress.of(url, None)):
        try:
            shown = f"{make()} {make()!r}"
        except ValueError as error:
            shown = str(error)
        assert "sidecar:8765" in shown
        assert KEY not in shown


@contextlib.contextmanager
def logging_as_served(form: str) -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        setup_logging("debug", form)  # type: ignore[arg-type] # one of the two
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:{KEY}@collector"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"collector/v1/traces?api-key={KEY}"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"a=b,authorization=Bearer {KEY}"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", f"authorization=Bearer%20{KEY}"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f'Bearer "{KEY}'),
        ("HTTPS_PROXY", f"user:{KEY}@proxy:3128"),
        ("http_proxy", f"ftp://{KEY}@proxy:3128"),
    ],
)
def test_libraries_do_not_log_secrets_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with logging_as_served(form):
        for part in (value, *value.split(",")):
            logging.getLogger("a.library").warning("cannot use %r: %s", value, part)
        try:
            raise ValueError(f"{value} isn't valid")
        except ValueError:
            logging.getLogger("a.library").exception("failed")
        print("the rest is logged", file=sys.stderr)
    logged = capsys.readouterr().err
    assert "cannot use" in logged
    assert "isn't valid" in logged
    assert "1f0c9b7e5d" not in logged


def test_libraries_do_not_log_the_keys_sent_to_a_collector(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_as_served("text"):
        logging.getLogger("urllib3.connectionpool").debug('"POST /v1/traces?api-key=%s"', KEY)
    assert KEY not in capsys.readouterr().err
