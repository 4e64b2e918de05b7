"""``docker compose --profile offline up``, as a newcomer runs it: a spoken question gets a spoken answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from browsers import ask_question, browser_page, write_question

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


async def test_a_question_into_the_microphone_is_answered_through_the_containers(
    composed: dict[str, str], tmp_path: Path
) -> None:
    write_question(tmp_path / "question.wav")
    async with browser_page(tmp_path / "question.wav") as page:
        words = await ask_question(page, composed["bot"])
    # The voice in the container is eSpeak NG's, of which the recogniser understands less than of others.
    assert "the front desk" in words
