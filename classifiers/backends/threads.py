"""How many threads a model may use in this process.

Libraries take every core of the host by default, in every process; several replicas on one host then fight for them.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import cv2

__all__ = ["core_count", "limit_threads", "thread_count"]

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def core_count() -> int:
    """CPU cores that this process may run on: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


def thread_count() -> int:
    """Threads for this process: ``OMP_NUM_THREADS`` (Ray sets it from ``num_cpus``), else :func:`core_count`."""
    # OpenMP allows a list, one number for each level of nesting
    configured = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if configured.isdecimal() and int(configured) > 0:
        return int(configured)
    return core_count()


def limit_threads() -> int:
    """Hold OpenCV, and torch if it was imported, to :func:`thread_count` threads; returns that number."""
    threads = thread_count()
    cv2.setNumThreads(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)
    return threads


def _quota(otherwise: int) -> int:
    """Cores that the container's CPU quota amounts to (cgroup v2: "quota period" in microseconds, or "max period")."""
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
    except FileNotFoundError:
        return otherwise
    return otherwise if quota == "max" else math.ceil(int(quota) / int(period))
