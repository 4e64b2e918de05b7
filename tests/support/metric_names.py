"""The names of all metrics, as Prometheus scrapes them."""

from __future__ import annotations

from slng_sidecar.telemetry.metrics import Metrics

_SAMPLES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}


def metric_types() -> dict[str, str]:
    """Return the type of each metric by its name. A histogram's name has no suffix such as ``_bucket``."""
    endings = {"counter": "_total", "info": "_info"}
    return {family.name + endings.get(family.type, ""): family.type for family in Metrics().registry.collect()}


def metric_names() -> set[str]:
    """Return the names of all possible samples."""
    families = Metrics().registry.collect()
    return {family.name + ending for family in families for ending in _SAMPLES.get(family.type, ("",))}
