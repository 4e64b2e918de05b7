"""The redaction tests can fail: if redaction is disabled, their search finds each secret in each place."""

from __future__ import annotations

import asyncio
import sys

import pytest
from support.paths import TESTS
from support.redaction import (
    CLIENT_KEY,
    CORES,
    LEAKY,
    MISPLACED,
    PLACES,
    SECRETS,
    WORDS,
    escaped,
    leaky_world,
    with_secrets,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]

UNREDACTED = TESTS / "support" / "unredacted.py"
# Every secret, for upstream to send and the page to show. Clients' keys and the token reach upstream in this test only.
EVERYTHING = f"{LEAKY} {SECRETS['SIDECAR_TOKEN']} {CLIENT_KEY} {MISPLACED}"


@pytest.mark.parametrize("form", ["text", "json"])
async def test_without_redaction_the_search_finds_every_secret_in_every_place(form: str) -> None:
    page = with_secrets({"text": EVERYTHING})["text"]
    async with leaky_world(
        command=(sys.executable, UNREDACTED), UNREDACTED_PAGE=page, SIDECAR_LOG_FORMAT=form
    ) as world:
        for kind in ("stt", "tts"):
            await world.simulator.inject(
                **with_secrets({"do": "error", "when": "init", "code": "auth_error", "message": EVERYTHING}), kind=kind
            )
        await asyncio.gather(world.run_session("stt", extended=True), world.run_session("tts"))
    found = {(leak.place, leak.secret) for leak in world.leaks()}
    delivered = {"the misplaced key", "the first word", "the second word"}
    assert found == {
        (place, secret) for place in PLACES for secret in CORES if not (place == "replies" and secret in delivered)
    }


async def test_with_redaction_the_search_finds_nothing_but_what_is_added() -> None:
    page = with_secrets({"text": EVERYTHING})["text"]
    async with leaky_world(UNREDACTED_PAGE=page) as world:
        fault = {"do": "error", "when": "init", "code": "auth_error", "message": f"{LEAKY} {WORDS}"}
        await world.simulator.inject(**with_secrets(fault), kind="stt")
        await world.run_session("stt", extended=True)
    world.assert_searchable("not opened")
    assert world.leaks() == []
    for place in PLACES:
        world.found[place] += escaped(SECRETS["SLNG_API_KEY"])
    assert [(leak.place, leak.secret) for leak in world.leaks()] == [(place, "SLNG's key") for place in PLACES]
