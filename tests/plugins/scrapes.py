"""What the metrics of this process say, and by how much they have grown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from serve_app.telemetry.metrics import REGISTRY


def samples(registry: CollectorRegistry = REGISTRY) -> dict[str, float]:
    """Each sample, by its name and labels: ``visiongraph_crops_total{step=size}``."""
    found = {}
    for family in registry.collect():
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


@contextmanager
def growth() -> Iterator[dict[str, float]]:
    """After the block: the samples that have changed in it, and by how much. Buckets are left out."""
    before, changed = samples(), {}
    yield changed
    for name, value in samples().items():
        if "_bucket{" not in name and (grown := value - before.get(name, 0.0)):
            changed[name] = grown


def promtool() -> str:
    """Prometheus' own checker; without it the test is skipped."""
    return _program("promtool")


def prometheus() -> str:
    """Prometheus; without it the test is skipped."""
    return _program("prometheus")


def _program(name: str) -> str:
    path = os.pathsep.join([os.environ.get("VISIONGRAPH_PROMETHEUS", ""), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(
            f"{name} is not installed (Debian: apt install prometheus), or name its folder VISIONGRAPH_PROMETHEUS"
        )
    return str(Path(found))
