"""The policies that Ray Serve's controller calls, ten times a second, while all its other work waits.

So they do no I/O and never raise: where something is not known, the number stays as it is. Serve sends this module by
value to the controller; what it imports must be installed there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.autoscaling.decisions import WINDOW_S, Load, Scaler
from serve_app.autoscaling.stats import CROPS, HEARTBEAT
from serve_app.queues import QueueStats, queue_from_url

__all__ = ["BacklogPolicy", "QueueWatcher", "StepPolicy"]

_log = logging.getLogger("ray.serve")

_EVERY_S = 1.0
_STALE_S = 30.0
_BACKLOG_UP_S = 2.0
_STEP_DRAIN_S = 10.0  # a crop's caller waits for it
_READ_EVERY_S = 2.0
_READ_TIMEOUT_S = 10.0
_READ_STALE_S = 20.0
_LOG_AGAIN_S = 300.0

Decision = tuple[int, dict[str, Any]]
_Reports = Mapping[Any, Mapping[str, float]]


class _Policy:
    """Decides once a second and repeats that in between; keeps the number where the decision fails."""

    def __init__(self, scaler: Scaler) -> None:
        self._scaler = scaler
        self._since: dict[Any, float] = {}
        self._decided: int | None = None
        self._next = -math.inf
        self._failed = False

    def __call__(self, ctx: AutoscalingContext) -> Decision:
        """The number of replicas, and no state for Serve to keep."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _EVERY_S
            try:
                self._decided = self._decide(ctx, now)
                self._failed = False
            except Exception:  # noqa: BLE001 - it would stall the controller
                if not self._failed:
                    _log.exception("autoscaling of '%s' failed; its number of replicas stays", ctx.deployment_name)
                self._failed, self._decided = True, None
        return ctx.target_num_replicas if self._decided is None else self._decided, {}

    def _decide(self, ctx: AutoscalingContext, now: float) -> int | None:
        """The number of replicas; ``None``: unchanged."""
        reports = _reports(ctx)
        # since when each replica has been publishing: the rate of a new one is not known yet
        self._since = {replica: self._since.get(replica, now) for replica in reports}
        rates = [reports[replica]["rate"] for replica, since in self._since.items() if now - since > WINDOW_S]
        seen = self._load(ctx, reports)
        if seen is None:
            return None
        load = Load(
            now=now,
            replicas=len(reports),
            target=ctx.target_num_replicas,
            rate=_sum(reports, "rate"),
            rate_each=sum(rates) / len(rates) if rates else None,
            **seen,
        )
        return self._scaler.decide(load)

    def _load(self, ctx: AutoscalingContext, reports: _Reports) -> dict[str, Any] | None:
        """The other fields of :class:`Load`; ``None``: not known."""
        raise NotImplementedError


class StepPolicy(_Policy):
    """Scales a step by its load in progress (crops, or requests), which callers send along and replicas publish.

    With no replica, Serve itself starts one at the first request.

    Args:
        crops_per_replica: target of load in progress per replica.
        upscale_delay_s: how long more must be needed before replicas are added.
        downscale_delay_s: how long fewer must suffice before replicas are removed.
    """

    def __init__(self, crops_per_replica: float, upscale_delay_s: float, downscale_delay_s: float) -> None:
        super().__init__(Scaler(_STEP_DRAIN_S, None, upscale_delay_s, downscale_delay_s))
        self._crops_per_replica = crops_per_replica

    def _load(self, ctx: AutoscalingContext, reports: _Reports) -> dict[str, Any] | None:
        if not reports:
            return None
        crops = _crops(reports)
        if crops == 0 and ctx.total_num_requests > 0:  # sent, and not reported yet
            crops = 1.0
        room = self._crops_per_replica * len(reports)
        held = min(crops, room)
        return {"waiting": crops - held, "held": held, "oldest_age_s": None, "in_hand": held, "room": room}


class BacklogPolicy(_Policy):
    """Scales the workers of a queue by its backlog.

    A thread reads the statistics of the queue, since there may be no worker that does; workers publish their rates.

    Args:
        drain_s: time in which a backlog should be processed.
        images_per_s: assumed rate of one worker until it is measured.
        downscale_delay_s: how long fewer must suffice before workers are removed.
    """

    def __init__(self, queue_url: str, drain_s: float, images_per_s: float, downscale_delay_s: float) -> None:
        super().__init__(Scaler(drain_s, images_per_s, _BACKLOG_UP_S, downscale_delay_s))
        self._watcher = QueueWatcher(queue_url)
        self._watcher.start()
        weakref.finalize(self, self._watcher.stop)  # a new configuration makes a new policy

    def _load(self, ctx: AutoscalingContext, reports: _Reports) -> dict[str, Any] | None:  # noqa: ARG002
        queue = self._watcher.stats
        if queue is None:
            seen = [report for report in reports.values() if "waiting" in report]
            if not seen:
                return None
            last = seen[-1]
            queue = QueueStats(round(last["waiting"]), round(last.get("in_flight", 0)), last.get("oldest_age_s"))
        # numbers that are minutes old show that there was work, but not how much of it is done by now
        is_old = self._watcher.is_late and bool(reports)
        ages = [report["oldest_age_s"] for report in reports.values() if "oldest_age_s" in report]
        in_hand = _sum(reports, "in_hand")
        return {
            "waiting": None if is_old else queue.waiting,
            "held": in_hand if queue.in_flight is None else queue.in_flight,
            # workers, which receive messages, know the age better than the statistics
            "oldest_age_s": None if is_old else min(ages, default=queue.oldest_age_s),
            "in_hand": in_hand,
            "room": _sum(reports, "room"),
        }


class QueueWatcher:
    """Reads the statistics of a queue every 2 seconds, in a daemon thread. Never raises; errors are logged."""

    def __init__(self, url: str, every_s: float = _READ_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._every_s = every_s
        self._clock = clock
        self._seen: tuple[QueueStats, float] | None = None
        self._stop = threading.Event()
        self._complained_at: float | None = None
        self.is_late = False
        """Whether the broker's numbers are minutes old."""

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._watch, name="queue-watcher", daemon=True).start()

    def stop(self) -> None:
        """End the thread, soon."""
        self._stop.set()

    @property
    def stats(self) -> QueueStats | None:
        """The latest statistics; ``None``: there are none, or they are stale."""
        stats, read_at = self._seen or (None, 0.0)
        return None if self._clock() - read_at > _READ_STALE_S else stats

    def _watch(self) -> None:
        while not self._stop.is_set():
            try:
                asyncio.run(self._watch_connected())
            except Exception as error:  # noqa: BLE001 - a broker's client may raise anything; the next round retries
                now = time.monotonic()
                if self._complained_at is None or now - self._complained_at > _LOG_AGAIN_S:
                    self._complained_at = now
                    _log.warning(
                        "autoscaling cannot read the queue; the number of workers stays the same: %s: %s",
                        type(error).__name__,
                        error,
                    )
            self._stop.wait(self._every_s)

    async def _watch_connected(self) -> None:
        queue = queue_from_url(self._url)
        self.is_late = queue.stats_are_late
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                await queue.open()
            while not self._stop.is_set():
                async with asyncio.timeout(_READ_TIMEOUT_S):
                    stats = await queue.stats()
                self._seen = stats, self._clock()
                self._complained_at = None
                await asyncio.to_thread(self._stop.wait, self._every_s)
        finally:
            await queue.close()


def _reports(ctx: AutoscalingContext) -> _Reports:
    """What each running replica published last, by replica, where that is fresh."""
    metrics = ctx.raw_metrics or {}
    reports: dict[Any, dict[str, float]] = {}
    for replica, beats in metrics.get(HEARTBEAT, {}).items():
        if not beats or (ctx.current_time or 0.0) - beats[-1].timestamp > _STALE_S:
            continue
        last = beats[-1].timestamp
        series = {name: by_replica.get(replica) for name, by_replica in metrics.items()}
        reports[replica] = {
            name: points[-1].value for name, points in series.items() if points and points[-1].timestamp == last
        }
    return reports


def _crops(reports: _Reports) -> float:
    """The crops in progress of all callers: the highest number of each, since a replica knows only what it was sent."""
    callers = {name for report in reports.values() for name in report if name.startswith(CROPS)}
    return sum(max(report.get(caller, 0.0) for report in reports.values()) for caller in callers)


def _sum(reports: _Reports, name: str) -> float:
    return sum(report.get(name, 0.0) for report in reports.values())
