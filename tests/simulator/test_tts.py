from __future__ import annotations

from simulator.talking import FLUSH, fast, text, tts


async def test_says_the_words_of_a_turn_and_ends_it_once() -> None:
    async with fast() as simulator, tts(simulator) as client:
        await client.send(text("n1 n2"), text("n3"), FLUSH)
        await client.until("audio_end")
        assert client.words() == ["n1", "n2", "n3"]
