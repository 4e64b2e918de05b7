"""The rows of the report, as a table and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line: what was measured, on the sidecar and on what it is compared with.

    Attributes:
        other: the official plugin, or a direct connection, as the measurement says; empty where there is none.
        digits: after the point.
    """

    what: str
    unit: str
    ours: list[float]
    other: list[float] = field(default_factory=list)
    digits: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": median(self.ours) if self.ours else None,
            "other": median(self.other) if self.other else None,
            "ours_all": self.ours,
            "other_all": self.other,
        }


@dataclass(frozen=True)
class Part:
    """What one measurement gives."""

    title: str
    other: str
    rows: list[Row]


def percentile(values: list[float], share: float) -> float:
    """Give the value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(part: Part) -> str:
    """Show a measurement: medians, and from what to what where the values differ."""
    head = ("", "unit", "sidecar", part.other, "n")
    lines: list[tuple[str, ...]] = [head]
    lines += [(r.what, r.unit, _shown(r.ours, r.digits), _shown(r.other, r.digits), _count(r)) for r in part.rows]
    if not part.other:
        lines = [(*line[:3], *line[4:]) for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([part.title, *shown, ""])


def _count(row: Row) -> str:
    counts = {len(row.ours), len(row.other)} - {0}
    return "/".join(str(count) for count in sorted(counts))


def _shown(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    middle = f"{median(values):.{digits}f}"
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return middle if low == high or len(values) > 20 else f"{middle} ({low}-{high})"
