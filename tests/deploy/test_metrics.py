"""docs/reference/metrics.md lists exactly the metrics that exist."""

from __future__ import annotations

import re

from support.every_metric import labels_by_sample
from support.metric_names import metric_types
from support.paths import ROOT

PAGE = (ROOT / "docs/reference/metrics.md").read_text()
ROWS = {
    name: (kind.strip(), set(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in re.findall(
        r"^\| `((?:slng_sidecar|process)_\w+)` \| ([^|]+)\|[^|]+\|([^|]+)\|", PAGE, re.MULTILINE
    )
}


def test_each_metric_is_listed_with_its_type_and_nothing_else_is() -> None:
    assert {name: kind for name, (kind, _) in ROWS.items()} == metric_types()


def test_the_labels_are_those_of_a_sidecar_in_use() -> None:
    for name, (kind, labels) in ROWS.items():
        sample = name + "_bucket" if kind == "histogram" else name
        assert labels == labels_by_sample()[sample] - {"le"}, name
