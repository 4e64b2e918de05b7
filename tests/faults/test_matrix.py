"""Every fault at every moment at which it can occur: what is promised holds in each cell, and a table says what came.

``MATRIX_FACTOR`` stretches all deadlines, for a slow machine; ``MATRIX_DOCS`` names a file that the table is written
to; ``MATRIX_ONLY`` runs the cells that have this in their names.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from faults.cases import CASES, ELSEWHERE, MOMENTS
from faults.cells import Cell, World, outcome
from running import gateway_and_simulator
from slng_sidecar.protocol import cutting
from slng_sidecar.simulator import SimulatorOptions
from websockets.exceptions import WebSocketException

FACTOR = float(os.environ.get("MATRIX_FACTOR", "1"))
DOCS = os.environ.get("MATRIX_DOCS")
ONLY = os.environ.get("MATRIX_ONLY", "")
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
TITLE = """# Every fault at every moment

Made by `make matrix-docs`: each cell is a session over real sockets that lived through the fault, held against
section 6 of the local contract; a cell whose fault did not come, or in which a promise broke, fails the run. Numbers
are those of the thirty peculiarities of SLNG in `tests/faults/cases.py`; `+` are more, `tcp` is what networks do.

* *whole*: nothing was lost. For TTS, what had not sounded was said again where it was lost.
* *one failed*: a context that had sounded in part ended as `failed`, with how much was delivered, or one that could
  not be said again did, with the reason.
* *cleared*: as *whole*, but for the context that was cleared.
* *timeout*: upstream kept what it had heard to itself, and finalizes were answered so in time.
* *not all told*: it kept that to itself and closed cleanly, or its stray final was taken for the last answer; see
  [what cannot be promised](guarantees.md#what-cannot-be-promised). *ms dropped* is what the client was told of it.
* *drained*: the session was ended at a finalize's answer while its client went on speaking, as a drain does.
* *ends: code*: the client was told this fatal error, after the end of each context and the answer to each finalize.
* An empty cell: it cannot occur there; the reasons are below.

Where a cell with a spare connection (`standby: true`) came out otherwise than the one without, both stand there:
without / with.
"""


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


def table(results: Mapping[Cell, str]) -> str:
    """Write down what came of each cell."""
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
    lines += ["\n## Not applicable\n"]
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
    lines += ["", "Of the thirty, these are no cells:\n"]
    lines += [f"* {number}: {where}" for number, where in ELSEWHERE.items()]
    return "\n".join(lines) + "\n"


@pytest.mark.matrix
@pytest.mark.timeout(1800)
async def test_what_is_promised_holds_whatever_fails_whenever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_PATIENCE_SECONDS", 0.2)
    manners = {"upgrade_ms": 20, "ready_ms": 10, "pace": 10, "chunk_ms": 40, "clear_ms": 20, "final_ms": 20}
    options = SimulatorOptions.fast(keep_audio=0, tcp=True, manners=manners)
    results: dict[Cell, str] = {}
    broken: dict[Cell, str] = {}
    async with gateway_and_simulator(options, **SETTINGS) as (url, simulator):
        world = World(simulator, url, SETTINGS)
        gate = asyncio.Semaphore(AT_ONCE)

        async def live(number: int, cell: Cell) -> None:
            async with gate:
                try:
                    results[cell] = await outcome(world, cell, number, FACTOR)
                except (AssertionError, OSError, TimeoutError, KeyError, WebSocketException) as error:
                    broken[cell] = results[cell] = f"BROKEN: {error!r}"

        await asyncio.gather(*(live(number, cell) for number, cell in enumerate(cells())))
    written = table(results)
    print(written)
    print(f"{len(results)} cells, {len(broken)} broken")
    assert not broken, "\n".join(f"{cell}: {why[:300]}" for cell, why in broken.items())
    if DOCS:
        Path(DOCS).write_text(written)
