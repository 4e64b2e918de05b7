"""Grafana's dashboard and Prometheus' alerts query only metrics and labels that a running sidecar has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from support.every_metric import labels_by_sample
from support.metric_names import metric_types
from support.paths import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "slng-sidecar.json").read_text())
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
# The labels that Prometheus itself adds to each target.
TARGET = {"job", "instance"}
RATES = ("rate", "irate", "increase")
SELECTOR = re.compile(r"\b((?:slng_sidecar|process|python)_\w+|up)\b\s*(?:\{([^}]*)\})?(\[[^\]]+\])?")


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


def grouped_by(query: str) -> set[str]:
    return {label.strip() for labels in re.findall(r"\bby\s*\(([^)]*)\)", query) for label in labels.split(",")}


QUERIES = [pytest.param(query, id=title) for title, query in queries()]


@pytest.mark.parametrize("query", QUERIES)
def test_every_metric_exists_and_has_the_labels_that_the_queries_use(query: str) -> None:
    known = labels_by_sample()
    available: set[str] = set(TARGET)
    found = list(SELECTOR.finditer(query))
    assert found
    for match in found:
        name, matchers = match[1], match[2] or ""
        if name != "up":
            assert name in known
            available |= known[name]
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert asked <= TARGET | known.get(name, set()), f"{name} has no {asked}"
    assert grouped_by(query) <= available


@pytest.mark.parametrize("query", QUERIES)
def test_rates_are_of_counters_and_quantiles_are_of_buckets(query: str) -> None:
    types = metric_types()
    for match in SELECTOR.finditer(query):
        name, window = match[1], match[3]
        before = re.search(r"(\w+)\s*\($", query[: match.start()])
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        grows = types.get(name) == "counter" or types.get(base) == "histogram"
        assert bool(window) == grows, f"{name} is a {types.get(name) or types.get(base)}"
        if window:
            assert before is not None
            assert before[1] in RATES
        assert name not in types or types[name] != "histogram", f"{name}: a histogram must be queried by its _bucket"
    if "histogram_quantile" in query:
        assert "_bucket" in query
        assert "le" in grouped_by(query)


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_is_valid_promql(query: str) -> None:
    if query.startswith("label_values("):
        # Grafana's own variables, around a selector.
        query = query.removeprefix("label_values(").rpartition(",")[0]
    promql_parser.parse(query.replace("$__rate_interval", "5m").replace("$__range", "3h"))


def test_legends_use_only_labels_that_the_query_keeps() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            left = {
                label.strip() for text in re.findall(r"\bby\s*\(([^)]*)\)", target["expr"]) for label in text.split(",")
            }
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= left | TARGET, panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    asked = " ".join(query for _, query in queries())
    # The number of tasks exists for the tests, which check that nothing is left behind.
    unseen = {name for name in metric_types() if name.startswith("slng_sidecar_") and name not in asked}
    assert unseen <= {"slng_sidecar_tasks"}


def test_panels_do_not_overlap_and_have_unique_ids_and_descriptions() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not own & cells, panel["title"]
        cells |= own
        assert panel["type"] == "row" or panel["description"]


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in RULES])
def test_an_alert_has_a_description_and_a_severity(rule: dict[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Slng[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert re.fullmatch(r"\d+m", rule.get("for", "1m"))
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    assert named <= (grouped_by(rule["expr"]) or TARGET)


def test_alert_names_are_unique() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
