"""Expressions over the metrics of :mod:`serve_app.telemetry.metrics`, by the names and types that these have."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from serve_app.telemetry.histogram import Histogram

__all__ = ["average", "gauge", "quantile", "rate", "series", "share"]


def series(metric: Counter | Gauge | Histogram, where: str = "", part: str = "") -> str:
    """A selector; ``part``: ``bucket``, ``sum`` or ``count`` of a histogram."""
    (family,) = metric.describe()
    suffix = "_total" if family.type == "counter" else f"_{part}" if part else ""
    return f"{family.name}{suffix}{{{where}}}" if where else f"{family.name}{suffix}"


def rate(metric: Counter | Histogram, window: str, by: str = "", where: str = "", *, part: str = "") -> str:
    """Increase per second, summed over all processes; ``by``: the labels that stay."""
    return f"sum{_by(by)} (rate({series(metric, where, part)}[{window}]))"


def share(metric: Counter, window: str, by: str, where: str, of: str = "") -> str:
    """The share of what ``where`` selects in what ``of`` selects."""
    return f"{rate(metric, window, by, where)} / {rate(metric, window, by, of)}"


def average(metric: Histogram, window: str, by: str, where: str = "") -> str:
    """The mean of what was observed."""
    total, count = (rate(metric, window, by, where, part=part) for part in ("sum", "count"))
    return f"{total} / {count}"


def quantile(metric: Histogram, q: float, window: str, by: str = "", where: str = "") -> str:
    """A quantile, estimated from the buckets."""
    labels = ", ".join(filter(None, ("le", by)))
    return f"histogram_quantile({q:g}, {rate(metric, window, labels, where, part='bucket')})"


def gauge(metric: Gauge, how: str, by: str, where: str = "") -> str:
    """A gauge over all processes; ``how``: ``max`` where each sees the same, else ``sum``."""
    return f"{how}{_by(by)} ({series(metric, where)})"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
