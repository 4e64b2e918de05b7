"""``.env.example`` lists the variables that ``compose.yaml`` and the sidecar read."""

from __future__ import annotations

import re

from slng_sidecar.config import Settings
from slng_sidecar.keys import SECRETS
from support.paths import ROOT

COMPOSE = (ROOT / "compose.yaml").read_text()
OFFERED = set(re.findall(r"^#?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
# Variables of the example bot and of this machine's ports.
OTHERS = {"OPENAI_API_KEY_FILE", "BOT_PORT"}


def test_the_env_example_lists_what_compose_reads() -> None:
    assert set(re.findall(r"\$\{([A-Z_]+)", COMPOSE)) == OFFERED


def test_the_env_example_lists_settings_that_the_sidecar_has() -> None:
    known = {name.upper() for name in Settings.model_fields} | {f"{name.upper()}_FILE" for name in SECRETS}
    assert known >= OFFERED - OTHERS


def test_the_env_example_offers_every_secret_only_as_a_file() -> None:
    assert {f"{name.upper()}_FILE" for name in ("slng_api_key", "slng_provider_key", "sidecar_token")} <= OFFERED
    assert not {name.upper() for name in SECRETS} & OFFERED
