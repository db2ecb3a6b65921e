"""What replicas publish for autoscaling: flat numbers, because Serve accepts nothing else."""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from graph.engine import StepRequest
from graph.pipeline_file import AutoscalingConfig
from serve_app.autoscaling.decisions import WINDOW_S
from serve_app.queues.protocol import QueueStats

__all__ = ["CROPS", "HEARTBEAT", "CallerLoad", "LoadInProgress", "Rate", "ReplicaLoad", "call_load", "worker_stats"]

HEARTBEAT = "alive"
"""Always published, so that a missing number is distinguished from a missing report."""
CROPS = "crops:"
"""Followed by a caller's id: the load that it has in progress at the step that publishes."""

_REPORTED_S = 10.0

CallerLoad: TypeAlias = "tuple[str, int]"
"""A caller's id, and the load that it has in progress at the step that it calls."""


def worker_stats(queue: QueueStats | None, *, rate: float, in_hand: int, room: int) -> dict[str, float]:
    """What a worker returns from ``record_autoscaling_stats``.

    Args:
        queue: the statistics that the worker read last; ``None``: it has not read any.
        rate: messages per second that this worker has finished, over about the last 10 seconds.
        in_hand: messages that it holds now.
        room: messages that it could hold.
    """
    stats = {HEARTBEAT: 1.0, "rate": rate, "in_hand": float(in_hand), "room": float(room)}
    if queue is not None:
        known = {"waiting": queue.waiting, "in_flight": queue.in_flight, "oldest_age_s": queue.oldest_age_s}
        stats |= {name: float(value) for name, value in known.items() if value is not None}
    return stats


class Rate:
    """Counts what was done in the last ``WINDOW_S``, by a clock in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: deque[tuple[float, int]] = deque()

    def count(self, number: int = 1) -> None:
        """Count what has just been done."""
        now = self._clock()
        self._done.append((now, number))
        while self._done[0][0] < now - WINDOW_S:
            self._done.popleft()

    def per_s(self) -> float:
        """The rate per second."""
        since = self._clock() - WINDOW_S
        return sum(number for at, number in self._done if at >= since) / WINDOW_S


def call_load(request: StepRequest, scaling: AutoscalingConfig | None) -> int:
    """What one call adds to the load of a step: its crops, or one for the whole image; one in any case where the step
    is scaled by requests."""
    by_requests = scaling is not None and scaling.target_ongoing_requests is not None
    return 1 if request.targets is None or by_requests else len(request.targets)


class LoadInProgress:
    """A caller's load in progress at each deployment: waiting to be sent, or in a replica."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex[:12]
        self._load: Counter[str] = Counter()

    @contextmanager
    def call(self, deployment: str, load: int) -> Iterator[None]:
        """Count a call while it is in progress."""
        self._load[deployment] += load
        try:
            yield
        finally:
            self._load[deployment] -= load

    def at(self, deployment: str) -> CallerLoad:
        """What is sent along with a message to the deployment."""
        return self._id, self._load[deployment]


class ReplicaLoad:
    """What a step's replica knows of its load: what its callers sent last, and its own rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: dict[str, tuple[int, float]] = {}
        self._rate = Rate(clock)

    @contextmanager
    def calls(self, caller_load: CallerLoad, size: int) -> Iterator[None]:
        """Count calls of one caller while the block lasts.

        Args:
            caller_load: of their caller, these calls included.
            size: their share of it.
        """
        caller, in_progress = caller_load
        self._callers[caller] = in_progress, self._clock()
        try:
            yield
        finally:
            # a caller that makes no further call has at least these less
            in_progress, told = self._callers.get(caller, (0, 0.0))
            self._callers[caller] = max(0, in_progress - size), told
            self._rate.count(size)
            self._forget()

    def stats(self) -> dict[str, float]:
        """What the replica returns from ``record_autoscaling_stats``."""
        self._forget()
        callers = {CROPS + caller: float(load) for caller, (load, _) in self._callers.items()}
        return {HEARTBEAT: 1.0, "rate": self._rate.per_s(), **callers}

    def _forget(self) -> None:
        since = self._clock() - _REPORTED_S
        self._callers = {caller: told for caller, told in self._callers.items() if told[1] >= since}
