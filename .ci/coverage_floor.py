"""Report the branch coverage that `make coverage` measured: the total, and every file below the floor.

The floor is `fail_under` in pyproject.toml. It holds for the total, and the exit status is 1 if the total is below it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from coverage import Coverage


def main() -> int:
    """Print the report and return the exit status."""
    coverage = Coverage()
    coverage.load()
    floor = float(coverage.get_option("report:fail_under") or 0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "coverage.json")
        # coverage raises nothing here for a low total; that is decided below.
        total = coverage.json_report(outfile=str(file))
        report = json.loads(file.read_text())
    below = sorted(
        (figures["summary"]["percent_covered"], name, len(figures["missing_lines"]), len(figures["missing_branches"]))
        for name, figures in report["files"].items()
        if figures["summary"]["percent_covered"] < floor
    )
    print(f"Branch coverage: {total:.1f} % (the floor is {floor:g} %)")
    if below:
        print(f"\nFiles below {floor:g} %:")
    for percent, name, lines, branches in below:
        print(f"  {percent:5.1f} %  {name}  ({lines} lines and {branches} branches missed)")
    if total < floor:
        print(f"\nThe total is below the floor of {floor:g} %. Test what the change adds.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
