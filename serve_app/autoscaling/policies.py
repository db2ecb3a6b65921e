"""The policies that Ray Serve's controller calls, ten times a second and with everything else waiting for them.

So they do no I/O and never raise: what is not known leaves the number as it is. Serve sends this module by value to
the controller; what it imports must be installed there.
"""

from __future__ import annotations

import logging
import math
import time
import weakref
from collections.abc import Mapping
from typing import Any

from ray.serve.config import AutoscalingContext

from serve_app.autoscaling.decisions import WINDOW_S, Load, Scaler
from serve_app.autoscaling.stats import CROPS, HEARTBEAT
from serve_app.autoscaling.watching import QueueWatcher
from serve_app.queues import QueueStats

__all__ = ["BacklogPolicy", "StepPolicy"]

_log = logging.getLogger("ray.serve")

_EVERY_S = 1.0
_STALE_S = 30.0
_BACKLOG_UP_S = 2.0
_STEP_DRAIN_S = 10.0  # a crop's caller waits for it

Decision = tuple[int, dict[str, Any]]
_Reports = Mapping[Any, Mapping[str, float]]


class _Policy:
    """Decides once a second and repeats that in between; keeps the number where the decision fails."""

    def __init__(self) -> None:
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
        """The number; ``None``: as it is."""
        raise NotImplementedError


class StepPolicy(_Policy):
    """Scales a step by the crops that are under way for it; what its callers say, its replicas publish.

    From zero Serve itself starts a replica, at the first request.

    Args:
        crops_per_replica: crops that one replica should have.
        upscale_delay_s: seconds that more must be needed before replicas are added.
        downscale_delay_s: seconds that fewer must do before replicas go away.
    """

    def __init__(self, crops_per_replica: float, upscale_delay_s: float, downscale_delay_s: float) -> None:
        super().__init__()
        self._crops_per_replica = crops_per_replica
        self._scaler = Scaler(_STEP_DRAIN_S, None, upscale_delay_s, downscale_delay_s)
        self._seasons = _Seasons()

    def _decide(self, ctx: AutoscalingContext, now: float) -> int | None:
        reports = _reports(ctx)
        if not reports:
            return None
        crops = _under_way(reports)
        if crops == 0 and ctx.total_num_requests > 0:  # on its way, and not heard of yet
            crops = 1.0
        room = self._crops_per_replica * len(reports)
        return self._scaler.decide(
            Load(
                now=now,
                replicas=len(reports),
                target=ctx.target_num_replicas,
                waiting=max(0.0, crops - room),
                held=min(crops, room),
                oldest_age_s=None,
                rate=_sum(reports, "rate"),
                rate_each=self._seasons.mean_rate(reports, now),
                in_hand=min(crops, room),
                room=room,
            )
        )


class BacklogPolicy(_Policy):
    """Scales the workers of a queue by its backlog.

    A thread of its own asks the queue, since without workers nobody else would; the workers say how fast they are.

    Args:
        queue_url: the queue's.
        drain_s: seconds in which a backlog should be gone.
        images_per_s: what one worker is thought to do until that is measured.
        downscale_delay_s: seconds that fewer must do before workers go away.
    """

    def __init__(self, queue_url: str, drain_s: float, images_per_s: float, downscale_delay_s: float) -> None:
        super().__init__()
        self._scaler = Scaler(drain_s, images_per_s, _BACKLOG_UP_S, downscale_delay_s)
        self._seasons = _Seasons()
        self._watcher = QueueWatcher(queue_url)
        self._watcher.start()
        weakref.finalize(self, self._watcher.stop)  # a new configuration makes a new policy

    def _decide(self, ctx: AutoscalingContext, now: float) -> int | None:
        reports = _reports(ctx)
        queue = self._watcher.stats
        if queue is None:
            told = [report for report in reports.values() if "waiting" in report]
            if not told:
                return None
            last = told[-1]
            queue = QueueStats(round(last["waiting"]), round(last.get("in_flight", 0)), last.get("oldest_age_s"))
        # what is minutes old says that there is work, but not to workers who have moved on since
        is_old = self._watcher.is_late and bool(reports)
        ages = [report["oldest_age_s"] for report in reports.values() if "oldest_age_s" in report]
        in_hand = _sum(reports, "in_hand")
        return self._scaler.decide(
            Load(
                now=now,
                replicas=len(reports),
                target=ctx.target_num_replicas,
                waiting=None if is_old else queue.waiting,
                held=in_hand if queue.in_flight is None else queue.in_flight,
                # who receives knows it better than who only looks
                oldest_age_s=None if is_old else min(ages, default=queue.oldest_age_s),
                rate=_sum(reports, "rate"),
                rate_each=self._seasons.mean_rate(reports, now),
                in_hand=in_hand,
                room=_sum(reports, "room"),
            )
        )


class _Seasons:
    """Since when each replica has been publishing: the rate of a new one says nothing yet."""

    def __init__(self) -> None:
        self._since: dict[Any, float] = {}

    def mean_rate(self, reports: _Reports, now: float) -> float | None:
        self._since = {replica: self._since.get(replica, now) for replica in reports}
        rates = [reports[replica]["rate"] for replica, since in self._since.items() if now - since > WINDOW_S]
        return sum(rates) / len(rates) if rates else None


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


def _under_way(reports: _Reports) -> float:
    """The crops that all callers have under way. Replicas hear of them by calls: who heard of more counts."""
    callers = {name for report in reports.values() for name in report if name.startswith(CROPS)}
    return sum(max(report.get(caller, 0.0) for report in reports.values()) for caller in callers)


def _sum(reports: _Reports, name: str) -> float:
    return sum(report.get(name, 0.0) for report in reports.values())
