"""The panels of the dashboard, row by row: one question each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serve_app.monitoring.promql import average, gauge, quantile, rate, share
from serve_app.telemetry.metrics import (
    BATCH_FILL_RATIO,
    BATCH_SECONDS,
    CONFIDENCE,
    CROPS,
    CROPS_PER_IMAGE,
    DELIVERIES,
    DETECTIONS,
    GATEWAY_REFUSALS,
    IMAGE_SECONDS,
    IMAGES,
    QUEUE_MESSAGES,
    QUEUE_OLDEST_AGE_SECONDS,
    RULE_DECISIONS,
    STEP_GPUS,
    STEP_RESULTS,
    STEP_SECONDS,
    STORE_WRITE_SECONDS,
    WORKERS_MAX,
)

__all__ = ["APPLICATION", "ROWS", "WINDOW", "Panel"]

WINDOW = "$__rate_interval"
"""Grafana's: some scrapes long, or as long as a pixel of the panel."""

APPLICATION = 'application=~"$application"'
"""The dashboard's choice of applications."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram.

    Attributes:
        title: what it shows.
        unit: as Grafana calls it.
        queries: expressions, by the legend of their series.
        help: how to read it.
    """

    title: str
    unit: str
    queries: Mapping[str, str]
    help: str = ""


def _here(where: str = "") -> str:
    return f"{APPLICATION}, {where}" if where else APPLICATION


_FAILED = 'outcome=~"failed|timed_out"'
_ALL_IMAGES = rate(IMAGES, WINDOW, where=_here())


def _per_thousand_images(expression: str) -> str:
    return f"1000 * {expression} / scalar({_ALL_IMAGES})"


_OURS = _here('job="visiongraph"')

_SERVING = (
    Panel(
        "Images per second",
        "reqps",
        {"{{source}} {{outcome}}": rate(IMAGES, WINDOW, "source, outcome", _here())},
        "refused: the image or the request is at fault; failed: a step or a source; cancelled: the client left.",
    ),
    Panel(
        "Share of images that failed",
        "percentunit",
        {"{{source}}": share(IMAGES, WINDOW, "source", _here(_FAILED), _here())},
        "Failed or timed out: what counts against the error budget.",
    ),
    Panel(
        "Time per image",
        "s",
        {
            f"{{{{source}}}} p{q * 100:g}": quantile(IMAGE_SECONDS, q, WINDOW, "source", _here())
            for q in (0.5, 0.95, 0.99)
        },
        "From its arrival to its result.",
    ),
    Panel(
        "Problem documents per second",
        "reqps",
        {"{{reason}}": f"topk(10, {rate(GATEWAY_REFUSALS, WINDOW, 'reason', _here())})"},
        "What the gateway answered instead of a result: the ten most frequent types.",
    ),
)

_SLOW = (
    Panel(
        "Time per step, on average",
        "s",
        {"{{step}} {{phase}}": average(STEP_SECONDS, WINDOW, "step, phase", _here())},
        "queue: waiting for a replica and its model; decode: work on pixels; model: the batch.",
    ),
    Panel(
        "Time per step, 95th percentile",
        "s",
        {"{{step}} {{phase}}": quantile(STEP_SECONDS, 0.95, WINDOW, "step, phase", _here())},
    ),
    Panel(
        "How full batches are",
        "percentunit",
        {"{{step}}": average(BATCH_FILL_RATIO, WINDOW, "step", _here())},
        "Images in a batch as a share of max_batch_size. Always full and much queue: a larger batch, or more replicas.",
    ),
    Panel(
        "Time per batch",
        "s",
        {"{{step}}": average(BATCH_SECONDS, WINDOW, "step", _here())},
    ),
)

_DECIDES = (
    Panel(
        "Share of images that reach a step",
        "percentunit",
        {"{{step}}": share(STEP_RESULTS, WINDOW, "step", _here('status!="skipped"'), _here())},
    ),
    Panel(
        "Decisions per second",
        "ops",
        {"{{step}} {{rule}} {{outcome}}": rate(RULE_DECISIONS, WINDOW, "step, rule, outcome", _here())},
        "Conditions once per image, crop rules once per detection. failed: the rule could not be evaluated.",
    ),
    Panel(
        "Crops per image",
        "short",
        {
            "{{step}} of all images": f"{rate(CROPS, WINDOW, 'step', _here())} / scalar({_ALL_IMAGES})",
            "{{step}} where its rule was asked": average(CROPS_PER_IMAGE, WINDOW, "step", _here()),
        },
    ),
    Panel(
        "Steps that failed or timed out",
        "percentunit",
        {
            "{{step}}": share(
                STEP_RESULTS, WINDOW, "step", _here('status=~"failed|timed_out"'), _here('status!="skipped"')
            )
        },
    ),
    Panel(
        "Detections per second",
        "ops",
        {"{{class}}": f"topk(10, {rate(DETECTIONS, WINDOW, 'class', _here())})"},
        "The ten most frequent classes.",
    ),
    Panel(
        "Confidence, on average",
        "percentunit",
        {"{{step}}": average(CONFIDENCE, WINDOW, "step", _here())},
        "A sudden change: another model, or other images.",
    ),
)

_KEEPS_UP = (
    Panel(
        "Messages in the queue",
        "short",
        {"{{queue}} {{state}}": gauge(QUEUE_MESSAGES, "max", "queue, state", _here())},
    ),
    Panel(
        "Age of the oldest message",
        "s",
        {"{{queue}}": gauge(QUEUE_OLDEST_AGE_SECONDS, "max", "queue", _here())},
    ),
    Panel(
        "Deliveries per second",
        "ops",
        {"{{queue}} {{outcome}}": rate(DELIVERIES, WINDOW, "queue, outcome", _here())},
    ),
    Panel(
        "Replicas",
        "short",
        {
            "{{deployment}} wanted": f"max by (deployment) (ray_serve_autoscaling_target_replicas{{{APPLICATION}}})",
            "{{deployment}} running": f"count by (deployment) (up{{{_OURS}}} == 1)",
            "workers allowed": gauge(WORKERS_MAX, "max", "queue", _here()),
        },
        "Wanted by Ray Serve; running: processes that answer Prometheus.",
    ),
    Panel(
        "Time of a write to the store",
        "s",
        {
            "{{outcome}} p95": quantile(STORE_WRITE_SECONDS, 0.95, WINDOW, "outcome", _here()),
        },
    ),
)

_COSTS = (
    Panel(
        "CPU seconds per thousand images",
        "s",
        {
            "{{deployment}}": _per_thousand_images(
                f"sum by (deployment) (rate(process_cpu_seconds_total{{{_OURS}}}[{WINDOW}]))"
            )
        },
        "Of all replicas of a deployment. Ray's own processes are not in it.",
    ),
    Panel(
        "Model seconds per thousand images",
        "s",
        {"{{step}}": _per_thousand_images(rate(BATCH_SECONDS, WINDOW, "step", _here(), part="sum"))},
        "Time in which the model worked: on a GPU the time that it was busy for this step.",
    ),
    Panel(
        "Reserved GPU seconds per thousand images",
        "s",
        {"{{step}}": _per_thousand_images(gauge(STEP_GPUS, "sum", "step", _here()))},
        "What the replicas reserve, busy or not.",
    ),
    Panel(
        "Memory of each process",
        "bytes",
        {"{{deployment}} {{instance}}": f"process_resident_memory_bytes{{{_OURS}}}"},
    ),
)

ROWS: Mapping[str, tuple[Panel, ...]] = {
    "Is it serving?": _SERVING,
    "What is slow?": _SLOW,
    "What does the graph decide?": _DECIDES,
    "Is it keeping up?": _KEEPS_UP,
    "What does it cost?": _COSTS,
}
"""By the question that a row answers."""
