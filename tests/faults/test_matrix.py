"""Every fault at every moment at which it can occur: the guarantees hold in each cell, and a table lists the outcomes.

``MATRIX_FACTOR`` stretches all deadlines, for a slow machine. ``MATRIX_DOCS`` names a file that the table is written
to. ``MATRIX_ONLY`` runs the cells that have this in their names. ``MATRIX_SEED`` runs a sample of the cells instead of
all: the seed chooses which, and every fault, moment and implementation is in it at least once.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import requests
from faults.cases import CASES, FACTOR, MOMENTS, elsewhere
from faults.cells import Cell, World, outcome
from faults.requests import Request
from slng_sidecar.protocol.stt import handover as cutting
from slng_sidecar.simulator import SimulatorOptions
from slng_sidecar.upstream import connection
from support.running import gateway_and_simulator, running_gateway
from support.sampling import sample
from websockets.exceptions import WebSocketException

DOCS = os.environ.get("MATRIX_DOCS")
ONLY = os.environ.get("MATRIX_ONLY", "")
SEED = os.environ.get("MATRIX_SEED")
SHARE = 0.2
"""How much of the matrix a sample has."""
AT_ONCE = 16
SETTINGS: dict[str, Any] = {
    "sidecar_open_timeout": 1.5 * FACTOR,
    "sidecar_send_timeout": 1 * FACTOR,
    "sidecar_close_timeout": 2 * FACTOR,
    "sidecar_first_audio_timeout": 1 * FACTOR,
    "sidecar_terminal_timeout": 1 * FACTOR,
    "sidecar_finalize_timeout": 1.5 * FACTOR,
    "sidecar_final_lag": 0.4,
    "sidecar_reconnect_seconds": 6 * FACTOR,
    "sidecar_context_idle": 10 * FACTOR,
    "sidecar_max_message": "1MB",
}
TITLE = """# Fault matrix

For reviewers: what came of every fault at every moment of a session at which it can occur.

```sh
make matrix-all     # run every cell
make matrix-docs    # run every cell, and write this page
make matrix         # run a sample of the cells
```

Each cell is a session over real sockets that lived through the fault, and was held against the [guarantees](../explain/guarantees.md). A cell whose
fault did not happen, or in which a guarantee broke, fails the run. The numbers are those of the thirty peculiarities of SLNG in `tests/faults/cases.py`.
Rows with `+` are further faults of an upstream, and rows with `tcp` are faults of the network.

## How to read a cell

| Cell | Meaning |
|---|---|
| *whole* | Nothing was lost. For TTS, what had not sounded was spoken again. |
| *one failed* | A context that had sounded in part ended as `failed`, with how much was delivered; or one that could not be spoken again did, with the reason. |
| *cleared* | As *whole*, except for the context that was cleared. |
| *timeout* | Upstream withheld what it had recognized, and finalizes were answered with `timeout` in time. |
| *incomplete* | Upstream withheld words and closed cleanly, or its stray final was taken for the last answer. See [what cannot be promised](../explain/guarantees.md#what-cannot-be-promised). |
| *ms dropped* | How much audio the client was told was never transcribed. |
| *drained* | The session was ended at a finalize's answer while its client went on speaking, as a drain does. |
| *ends: code* | The client received this fatal error, after the end of each context and the answer to each finalize. |
| *a status and a code* | HTTP: this error, before the first byte. |
| *breaks off* | HTTP: what was delivered was right, and then the reply broke off; as events, after an error event. |
| empty | The fault cannot occur there. The reasons are at the end. |

Two results in one cell are without and with a standby connection (`standby: true`). For requests over HTTP they are the reply as one body and as
events.
"""  # noqa: E501


def cells() -> list[Cell]:
    return [
        cell
        for case in CASES
        for kind in ("stt", "tts")
        for moment in MOMENTS
        if kind in case.kinds and case.reason_not_at(moment, kind) is None
        for standby in (False, True)
        if ONLY in str(cell := Cell(case, kind, moment, standby))
    ]


def chosen(everything: list[Any]) -> list[Any]:
    """Return all cells, or the sample that ``MATRIX_SEED`` chooses."""
    return everything if SEED is None else sample(everything, SEED, SHARE)


def table(results: Mapping[Any, str]) -> str:
    """Record the outcome of each cell."""
    lines = [TITLE]
    for kind, title in (("stt", "Speech to text"), ("tts", "Text to speech")):
        moments = [moment for moment in MOMENTS if kind == "tts" or moment != "during a clear"]
        lines += [f"\n## {title}\n", "| | Fault | " + " | ".join(moments) + " |", "|---|---|" + "---|" * len(moments)]
        for case in CASES:
            if kind not in case.kinds:
                continue
            row = []
            for moment in moments:
                if case.reason_not_at(moment, kind) is not None:
                    row.append("")
                else:
                    both = [results.get(Cell(case, kind, moment, standby), "?") for standby in (False, True)]
                    row.append(" / ".join(dict.fromkeys(both)))
            lines.append(f"| {case.number} | {case.name} | " + " | ".join(row) + " |")
    lines += [*requests.tables(results), "\n## Cells that are empty\n"]
    grouped: dict[tuple[str, str], list[str]] = {}
    for case in CASES:
        for moment in MOMENTS:
            if (reason := case.reason_not_at(moment, case.kinds[-1])) is not None:
                grouped.setdefault((reason, moment), []).append(f"{case.number} {case.name}")
    by_reason: dict[str, tuple[list[str], dict[str, None]]] = {}
    for (reason, moment), names in grouped.items():
        moments_of, names_of = by_reason.setdefault(reason, ([], {}))
        moments_of.append(moment)
        names_of.update(dict.fromkeys(names))
    lines += [f"* {reason} ({', '.join(at)}): {'; '.join(names)}" for reason, (at, names) in by_reason.items()]
    lines += [
        *requests.not_applicable(),
        "",
        "Of the thirty peculiarities and the further faults, these have no cells, in whole or in part:\n",
    ]
    lines += elsewhere()
    return "\n".join(lines) + "\n"


class Matrix:
    """The outcomes of the cells. Many cells run at once."""

    def __init__(self) -> None:
        self.results: dict[Cell | Request, str] = {}
        self.broken: dict[Cell | Request, str] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def live(self, cell: Cell | Request, life: Coroutine[Any, Any, str]) -> None:
        async with self._gate:
            try:
                self.results[cell] = await life
            except (AssertionError, OSError, TimeoutError, KeyError, WebSocketException, httpx.HTTPError) as error:
                self.broken[cell] = self.results[cell] = f"BROKEN: {error!r}"


async def all_ended(url: str) -> None:
    """Wait until a gateway has no sessions left. A session can wait for a silent upstream after its client has gone."""
    async with asyncio.timeout(20 * FACTOR), httpx.AsyncClient(base_url=url, trust_env=False) as client:
        while (await client.get("/v1/status")).json()["sessions"]:
            await asyncio.sleep(0.05)


@pytest.fixture
def _short_collections() -> Iterator[None]:
    """Exclude the objects that exist already from garbage collection.

    Collecting them takes up to a second, in which all deadlines run. A session survives that by trying again, and a
    request over HTTP does not.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.matrix
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("_short_collections")
async def test_every_guarantee_holds_at_every_fault_and_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_KEEPALIVE_SECONDS", 0.2 * FACTOR)
    profile = {"upgrade_ms": 20, "ready_ms": 10, "pace": 10, "chunk_ms": 40, "clear_ms": 20, "final_ms": 20}
    profile["http_rate"] = requests.SOUND_RATE
    options = SimulatorOptions.fast(keep_audio=0, tcp=True, profile=profile)
    matrix = Matrix()
    async with gateway_and_simulator(options, **SETTINGS) as (url, simulator):
        world = World(simulator, {"": url}, SETTINGS)
        lives = [matrix.live(cell, outcome(world, cell, number, FACTOR)) for number, cell in enumerate(chosen(cells()))]
        await asyncio.gather(*lives)
        await all_ended(url)
    settings = SETTINGS | requests.SETTINGS
    async with (
        gateway_and_simulator(options, slng_http_tts="websocket", **settings) as (url, simulator),
        running_gateway(simulator.url, slng_http_tts="bridge", **settings) as bridge,
    ):
        world = World(simulator, {"websocket": url, "bridge": bridge}, settings)
        asked = chosen([request for request in requests.requests() if ONLY in str(request)])
        lives = [matrix.live(each, requests.outcome(world, each, number)) for number, each in enumerate(asked)]
        await asyncio.gather(*lives)
        await all_ended(url)
        await all_ended(bridge)
    written = table(matrix.results)
    print(written if SEED is None else "\n".join(f"{cell}: {came}" for cell, came in matrix.results.items()))
    seeded = "" if SEED is None else f", a sample of {SHARE:.0%} chosen by MATRIX_SEED={SEED}"
    print(f"{len(matrix.results)} cells, {len(matrix.broken)} broken{seeded}")
    assert not matrix.broken, "\n".join(f"{cell}: {why[:300]}" for cell, why in matrix.broken.items())
    if DOCS:
        assert SEED is None, "the page shows every cell, so MATRIX_DOCS and MATRIX_SEED exclude each other"
        Path(DOCS).write_text(written)
