"""TTS through drops, updates and clears. The numbered signal shows exactly that no word is lost, moved or spoken twice.

Every run is a separate session with its own model, so that its faults and profile are its own.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from slng_sidecar.simulator import SimulatorOptions
from support.running import gateway_and_simulator
from support.tts_runs import SORTS, Run, one_run
from websockets.exceptions import ConnectionClosed

SEEDS = [pytest.param(range(40), id="40"), pytest.param(range(40, 100), marks=pytest.mark.slow, id="60 more")]
AT_ONCE = 20


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("seeds", SEEDS)
async def test_a_hundred_sessions_lose_nothing(sort: str, seeds: range) -> None:
    async with gateway_and_simulator(SimulatorOptions.fast(keep_audio=0)) as (url, simulator):
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(seed: int) -> Run:
            async with gate:
                return await one_run(url, simulator, sort, seed)

        results = await asyncio.gather(*(one(seed) for seed in seeds), return_exceptions=True)
        fired = sum(bool(fault.fired) for fault in simulator.faults if fault.do == "drop")
    ends: Counter[str] = Counter()
    failed = []
    for seed, result in zip(seeds, results, strict=True):
        try:
            if isinstance(result, BaseException):
                raise result
            result.check()
            ends.update(str(context.reason) for context in result.contexts.values())
        except (AssertionError, OSError, TimeoutError, ConnectionClosed) as error:
            failed.append(f"{seed}: {error!r}")
    assert not failed, f"{len(failed)} of {len(seeds)} runs failed:\n" + "\n".join(failed[:8])
    # Every kind of fault did occur.
    assert ends["completed"] > len(seeds)
    assert ("drop" in sort) == (fired > len(seeds) / 3) == (ends["failed"] > 0)
    assert ("clear" in sort) == (ends["cleared"] > len(seeds) / 3)
