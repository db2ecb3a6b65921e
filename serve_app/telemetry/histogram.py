"""A histogram for what is observed many times per image."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

__all__ = ["Histogram", "HistogramSeries"]


class HistogramSeries:
    """The observations with one set of labels. One thread observes; any thread may read.

    Without the two locks and the search from the first bucket on of the client's own histogram, ``observe`` takes a
    fifth of the time (benchmarks/metrics).
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Histogram(Collector):
    """A metric with buckets.

    Args:
        name: without the suffixes of its series.
        documentation: the help.
        labelnames: of each series.
        buckets: their upper bounds, rising; the last one, infinity, is added.
        registry: what exports it.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self._bounds = tuple(float(bound) for bound in buckets)
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """The series with these values of the labels; the same one for each call."""
        if len(values) != len(self._labelnames):
            raise ValueError(f"{self.name} has the labels {self._labelnames}, but got the values {values}")
        return self._series.setdefault(values, HistogramSeries(self._bounds))

    def describe(self) -> list[HistogramMetricFamily]:
        """The metric without its series; for the registry."""
        return [HistogramMetricFamily(self.name, self._documentation, labels=self._labelnames)]

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The metric as it is now; for the registry."""
        (family,) = self.describe()
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in tuple(self._series.items()):
            cumulated = list(zip(bounds, accumulate(series.counts), strict=True))
            family.add_metric(list(values), cumulated, series.sum)
        yield family
