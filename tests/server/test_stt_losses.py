"""STT through drops and updates. The numbered signal shows exactly that no word is lost or split.

Every finalize is answered. Every run has its own model, so that its faults and profile are its own. Time runs twenty
times faster than real time.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from slng_sidecar.protocol.stt import handover as cutting
from slng_sidecar.simulator import SimulatorOptions
from support.running import gateway_and_simulator
from support.stt_runs import PACE, one_run

SEEDS = [pytest.param(range(40), id="40"), pytest.param(range(40, 100), marks=pytest.mark.slow, id="60 more")]
AT_ONCE = 10


@pytest.fixture(autouse=True)
def _faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_PATIENCE_SECONDS", 1.5 / PACE)


async def run_all(what: str, seeds: range) -> list[int]:
    """Run all seeds of one kind and return how many connections each run opened."""
    options = SimulatorOptions.fast(keep_audio=0, upgrade_ms=20, ready_ms=10)
    # The lag limits how late finals may be. That includes the delays of this machine, which no pace shortens and which
    # tests that run at the same time make longer.
    settings: dict[str, Any] = {"sidecar_final_lag": 1.0, "sidecar_finalize_timeout": 3.0}
    async with gateway_and_simulator(options, **settings) as (url, simulator):
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(seed: int) -> int:
            async with gate:
                return await one_run(url, simulator, what, seed)

        results = await asyncio.gather(*(one(seed) for seed in seeds), return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    if failed:
        raise AssertionError(f"{len(failed)} of {len(seeds)} runs failed:\n" + "\n".join(map(repr, failed[:6])))
    return [result for result in results if isinstance(result, int)]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["undisturbed", "drop", "update", "drop during update"])
@pytest.mark.parametrize("seeds", SEEDS)
async def test_no_word_is_lost(what: str, seeds: range) -> None:
    dials = await run_all(what, seeds)
    assert len(dials) == len(seeds)
    if what == "undisturbed":
        assert set(dials) == {1}
    else:
        assert sum(count > 1 for count in dials) > 0.8 * len(seeds)
