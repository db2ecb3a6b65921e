"""What replicas publish for autoscaling: flat numbers, because Serve accepts nothing else."""

from __future__ import annotations

import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from graph.engine import StepRequest
from serve_app.autoscaling.decisions import WINDOW_S
from serve_app.queues.protocol import QueueStats

__all__ = ["CROPS", "HEARTBEAT", "CallerLoad", "CropsInProgress", "Rate", "ReplicaLoad", "worker_stats"]

HEARTBEAT = "alive"
"""Always published, so that a missing number is distinguished from a missing report."""
CROPS = "crops:"
"""Followed by a caller's id: the crops that it has in progress at the step that publishes."""

_REPORTED_S = 10.0

CallerLoad: TypeAlias = "tuple[str, int]"
"""A caller's id, and the crops that it has in progress at the step that it calls."""


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


def _crops(request: StepRequest) -> int:
    """The size of a call in a batch: its crops, or one for the whole image."""
    return 1 if request.targets is None else len(request.targets)


class CropsInProgress:
    """A caller's count of its crops in progress at each deployment: waiting for a replica, or in one."""

    def __init__(self) -> None:
        self._id = uuid.uuid4().hex[:12]
        self._crops: Counter[str] = Counter()

    @contextmanager
    def call(self, deployment: str, request: StepRequest) -> Iterator[CallerLoad]:
        """Count a call while it is in progress. Gives the load that is sent along with it to the deployment."""
        crops = _crops(request)
        self._crops[deployment] += crops
        try:
            yield self._id, self._crops[deployment]
        finally:
            self._crops[deployment] -= crops


class ReplicaLoad:
    """What a step's replica knows of its load: the crops in progress that its callers sent last, and its own rate."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._callers: dict[str, tuple[int, float]] = {}
        self._rate = Rate(clock)

    @contextmanager
    def call(self, load: CallerLoad, request: StepRequest) -> Iterator[None]:
        """Count a call, with the load of its caller, this call included."""
        caller, in_progress = load
        crops = _crops(request)
        self._callers[caller] = in_progress, self._clock()
        try:
            yield
        finally:
            # a caller that makes no further call has at least this one less
            in_progress, told = self._callers.get(caller, (0, 0.0))
            self._callers[caller] = max(0, in_progress - crops), told
            self._rate.count(crops)
            self._forget()

    def stats(self) -> dict[str, float]:
        """What the replica returns from ``record_autoscaling_stats``."""
        self._forget()
        callers = {CROPS + caller: float(crops) for caller, (crops, _) in self._callers.items()}
        return {HEARTBEAT: 1.0, "rate": self._rate.per_s(), **callers}

    def _forget(self) -> None:
        since = self._clock() - _REPORTED_S
        self._callers = {caller: told for caller, told in self._callers.items() if told[1] >= since}
