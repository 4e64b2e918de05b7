"""The rows of the report, for the printed tables and for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row: the values of the sidecar and those that they are compared with.

    Attributes:
        what: what was measured.
        unit: the unit of the values.
        ours: the values with the sidecar, one for each run.
        other: the values of the other column, such as the official plugin; empty if there is nothing to compare with.
        digits: how many digits to print after the decimal point.
    """

    what: str
    unit: str
    ours: list[float]
    other: list[float] = field(default_factory=list)
    digits: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON, with the medians and every single value."""
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
    """One table of the report.

    Attributes:
        title: the title of the table.
        other: the header of the column that the sidecar is compared with; empty for none.
        rows: the rows in order.
    """

    title: str
    other: str
    rows: list[Row]


def percentile(values: list[float], share: float) -> float:
    """Return the value that the given share of the values, from 0 to 1, does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(part: Part) -> str:
    """Return a table as text: medians, with the smallest and the largest value if they differ."""
    head = ("", "unit", "sidecar", part.other, "n")
    lines: list[tuple[str, ...]] = [head]
    lines += [(r.what, r.unit, _format(r.ours, r.digits), _format(r.other, r.digits), _count(r)) for r in part.rows]
    if not part.other:
        lines = [(*line[:3], *line[4:]) for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([part.title, *texts, ""])


def _count(row: Row) -> str:
    counts = {len(row.ours), len(row.other)} - {0}
    return "/".join(str(count) for count in sorted(counts))


def _format(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    middle = f"{median(values):.{digits}f}"
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return middle if low == high or len(values) > 20 else f"{middle} ({low}-{high})"
