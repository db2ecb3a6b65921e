"""The alert rules: what is promised, when that is broken, and what to do then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from classifiers.validation import Closed
from serve_app.monitoring.promql import average, gauge, quantile, series, share
from serve_app.telemetry.metrics import (
    CONFIDENCE,
    DELIVERIES,
    IMAGE_SECONDS,
    IMAGES,
    QUEUE_MESSAGES,
    QUEUE_OLDEST_AGE_SECONDS,
    RULE_DECISIONS,
    STEP_RESULTS,
    WORKERS_MAX,
)

__all__ = ["Promises", "Windows", "alert_rules"]


class Promises(Closed):
    """What the service promises; an alert fires when it is not kept."""

    availability: float = Field(0.999, gt=0, lt=1, description="Share of images that do not fail, over 30 days")
    image_s: float = Field(2.0, gt=0, description="Within which 95 of 100 images over HTTP have their result")
    oldest_message_s: float = Field(300.0, gt=0, description="Longest time that a message waits in the queue")


class Windows(Closed):
    """Over which time each rule looks, as Prometheus writes durations. Shorter ones are for tests.

    Attributes:
        recent: what counts as now.
        shift: compared with the same time a ``week`` before, where both have ``least`` observations.
        pending: how long most of what is no emergency must last.
        soon: how long the rest must last.
    """

    fast_burn: tuple[str, str] = ("5m", "1h")
    slow_burn: tuple[str, str] = ("30m", "6h")
    recent: str = "10m"
    shift: str = "1h"
    week: str = "1w"
    least: int = 100
    pending: str = "10m"
    soon: str = "2m"


@dataclass(frozen=True, slots=True)
class _Alert:
    name: str
    expression: str
    pending: str
    severity: str
    summary: str
    runbook: str

    def as_rule(self) -> dict[str, Any]:
        return {
            "alert": f"Visiongraph{self.name}",
            "expr": self.expression,
            "for": self.pending,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "runbook": self.runbook},
        }


# Google's SRE workbook, "Alerting on SLOs": 2% of a month's budget in 1 hour, 5% in 6 hours.
_FAST_BURN = 14.4
_SLOW_BURN = 6

_FAILED_STEPS = 0.01
_SHIFT = 3
_CONFIDENCE_SHIFT = 0.25


def alert_rules(promises: Promises | None = None, windows: Windows | None = None) -> dict[str, Any]:
    """The rules file of Prometheus."""
    promises, windows = promises or Promises(), windows or Windows()
    alerts = [
        *_budget(promises, windows),
        *_queue(promises, windows),
        *_steps(windows),
        *_shifts(windows),
        *_processes(windows),
    ]
    return {"groups": [{"name": "visiongraph", "rules": [alert.as_rule() for alert in alerts]}]}


def _budget(promises: Promises, windows: Windows) -> list[_Alert]:
    def burns(factor: float, pair: tuple[str, str]) -> str:
        limit = f"{factor * (1 - promises.availability):.6g}"
        failed, all_images = 'outcome=~"failed|timed_out"', 'outcome!="cancelled"'
        return " and ".join(f"{share(IMAGES, w, 'pipeline', failed, all_images)} > {limit}" for w in pair)

    runbook = (
        "Find the step in 'Steps that failed or timed out', and its errors in the replicas' logs. After a deployment: "
        "deploy the version before. No step fails: see 'Problem documents per second'."
    )
    slow = quantile(IMAGE_SECONDS, 0.95, windows.recent, where='source="http"')
    return [
        _Alert(
            "ErrorBudgetBurnsFast",
            burns(_FAST_BURN, windows.fast_burn),
            "0s",
            "page",
            "{{ $labels.pipeline }}: {{ $value | humanizePercentage }} of the images fail",
            runbook,
        ),
        _Alert(
            "ErrorBudgetBurnsSlowly",
            burns(_SLOW_BURN, windows.slow_burn),
            "0s",
            "ticket",
            "{{ $labels.pipeline }}: {{ $value | humanizePercentage }} of the images fail",
            runbook,
        ),
        _Alert(
            "ImagesSlow",
            f"{slow} > {promises.image_s:g}",
            windows.pending,
            "ticket",
            "the 95th percentile of the time per image is {{ $value | humanizeDuration }}",
            "'Time per step': with much queue add replicas or raise max_batch_size. A slow model: was it changed, or "
            "does another process use its cores or its GPU?",
        ),
    ]


def _queue(promises: Promises, windows: Windows) -> list[_Alert]:
    waiting = 'state="waiting"'
    grows = f"max by (queue) (deriv({series(QUEUE_MESSAGES, waiting)}[{windows.recent}])) > 0"
    never_empty = f"max by (queue) (min_over_time({series(QUEUE_MESSAGES, waiting)}[{windows.recent}])) > 0"
    at_most = f"count by (queue) ({series(WORKERS_MAX)}) >= {gauge(WORKERS_MAX, 'max', 'queue')}"
    letters = series(DELIVERIES, 'outcome="dead_letter"')
    return [
        _Alert(
            "OldestMessageTooOld",
            f"{gauge(QUEUE_OLDEST_AGE_SECONDS, 'max', 'queue')} > {promises.oldest_message_s:g}",
            windows.soon,
            "page",
            "{{ $labels.queue }}: the oldest message has waited for {{ $value | humanizeDuration }}",
            "No deliveries: the workers' logs say whether the broker, the store or a step does not answer. Else raise "
            "intake.autoscaling.max_replicas.",
        ),
        _Alert(
            "BacklogGrowsAtMaximum",
            f"{grows} and {never_empty} and {at_most}",
            windows.pending,
            "ticket",
            "{{ $labels.queue }}: the backlog grows by {{ $value | humanize }} messages per second with all workers",
            "Raise intake.autoscaling.max_replicas, and max_replicas of the step with most queue in 'Time per step'.",
        ),
        _Alert(
            "DeadLetters",
            f"sum by (queue) (increase({letters}[{windows.recent}])) > 0",
            "0s",
            "ticket",
            "{{ $labels.queue }}: {{ $value | humanize }} messages could not be processed",
            "visiongraph dlq list QUEUE_URL says why. Fix the cause, then: visiongraph dlq retry QUEUE_URL.",
        ),
    ]


def _steps(windows: Windows) -> list[_Alert]:
    failed = share(STEP_RESULTS, windows.recent, "step", 'status=~"failed|timed_out"', 'status!="skipped"')
    return [
        _Alert(
            "StepFails",
            f"{failed} > {_FAILED_STEPS:g}",
            windows.soon,
            "ticket",
            "{{ $labels.step }} fails on {{ $value | humanizePercentage }} of its images",
            "The replicas' logs have the error with its traceback. timed_out: raise timeout_ms, or add replicas.",
        ),
    ]


def _shifts(windows: Windows) -> list[_Alert]:
    """Compared with a week ago: day and weekday are the same."""
    offset = f"offset {windows.week}"

    def before(expression: str) -> str:
        return expression.replace(f"[{windows.shift}]", f"[{windows.shift}] {offset}")

    decided, true = 'rule="condition", outcome=~"true|false"', 'rule="condition", outcome="true"'
    holds = share(RULE_DECISIONS, windows.shift, "step", true, decided)
    enough = f"sum by (step) (increase({series(RULE_DECISIONS, decided)}[{windows.shift}])) > {windows.least}"
    ratio = f"(({holds}) / ({before(holds)}))"
    mean = average(CONFIDENCE, windows.shift, "step")
    many = f"sum by (step) (increase({series(CONFIDENCE, part='count')}[{windows.shift}])) > {windows.least}"
    moved = f"abs(({mean}) / ({before(mean)}) - 1)"
    return [
        _Alert(
            "ConditionShifted",
            f"({ratio} > {_SHIFT} or {ratio} < {1 / _SHIFT:.4g}) and {enough} and {before(enough)}",
            windows.soon,
            "ticket",
            "the condition of {{ $labels.step }} holds {{ $value | humanize }} times as often as a week ago",
            "Look at recent images: a camera that is dark or was moved, another source. Else: was the detector or the "
            "condition changed?",
        ),
        _Alert(
            "ConfidenceShifted",
            f"{moved} > {_CONFIDENCE_SHIFT:g} and {many} and {before(many)}",
            windows.soon,
            "ticket",
            "the mean confidence of {{ $labels.step }} has changed by {{ $value | humanizePercentage }} in a week",
            "Was the model changed? The fingerprint in results says since when. Else look at recent images.",
        ),
    ]


def _processes(windows: Windows) -> list[_Alert]:
    by = "by (application, deployment)"
    # of applications that are known: others on the same cluster do not export their processes
    known = 'count by (application) (up{job="visiongraph"})'
    wanted = f"(max {by} (ray_serve_autoscaling_target_replicas) and on (application) {known})"
    running = f'count {by} (up{{job="visiongraph"}} == 1)'
    return [
        _Alert(
            "ReplicasMissing",
            f"{wanted} - ({running} or 0 * {wanted}) > 0",
            windows.pending,
            "page",
            "{{ $labels.application }}: {{ $value }} replicas of {{ $labels.deployment }} are missing",
            "visiongraph doctor, and the dashboard of Ray: no room in the cluster, or they crash when they start.",
        ),
        _Alert(
            "NoData",
            'absent(up{job="visiongraph"} == 1)',
            windows.soon,
            "page",
            "no process of visiongraph answers Prometheus",
            "Is the service running? Does Prometheus read the folder that VISIONGRAPH_METRICS_DIR names?",
        ),
    ]
