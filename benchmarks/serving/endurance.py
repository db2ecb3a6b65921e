"""What one server does over a long time, and with more than it can do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.load import closed_loop, open_loop
from benchmarks.serving.processes import Groups, measured, memory_mb, settle
from benchmarks.serving.systems import NOT_OURS, Running

__all__ = ["measure_memory", "measure_overload"]

_CONNECTIONS = 16
_PIECE_S = 15.0
_TIMES_CAPACITY = 4


def measure_memory(server: Running, groups: Groups, photos: Sequence[Path], requests: int) -> dict[str, Any]:
    """Post so many requests after a tenth of as many, and say by how much the memory of gateway and steps has grown.

    Memory is read while nothing is under way, every 15 seconds.
    """
    samples: list[dict[str, Any]] = []
    done = failures = 0
    while not samples or done - samples[0]["requests"] < requests:
        result = closed_loop(server.url, photos, _CONNECTIONS, _PIECE_S)
        done += result["answers"]
        failures += result["failures"]
        if done >= requests / 10:
            settle(server.mark)
            samples.append({"requests": done, "memory_mb": memory_mb(server.mark, groups)})
    (first, first_others), (last, last_others) = (_replicas_and_others(samples[0]), _replicas_and_others(samples[-1]))
    return {
        "requests": done,
        "failures": failures,
        "first_mb": first,
        "last_mb": last,
        "growth_share": last / first - 1,
        "others_growth_mb": last_others - first_others,
        "samples": samples,
    }


def _replicas_and_others(sample: Mapping[str, Any]) -> tuple[float, float]:
    others = sum(sample["memory_mb"].get(group, 0.0) for group in NOT_OURS)
    return sum(sample["memory_mb"].values()) - others, others


def measure_overload(server: Running, groups: Groups, photos: Sequence[Path], seconds: float) -> dict[str, Any]:
    """Measure what the server can do with 16 connections, then offer it four times as much at random moments."""
    capacity = closed_loop(server.url, photos, _CONNECTIONS, max(2.0, seconds / 4))["images_per_s"]
    settle(server.mark)
    rate = _TIMES_CAPACITY * capacity
    result = measured(server.mark, groups, lambda: open_loop(server.url, photos, rate, seconds))
    return {**result, "capacity_per_s": capacity, "goodput_share": result["images_per_s"] / capacity}
