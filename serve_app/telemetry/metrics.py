"""Every metric: its name, labels, buckets and help. Ray's own metrics are not repeated here.

Labels are bounded: names of the pipeline file, or words of a short list. A tenant or an address never is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector

from serve_app.telemetry.histogram import Histogram

__all__ = [
    "BATCH_FILL_RATIO",
    "BATCH_SECONDS",
    "CONFIDENCE",
    "CROPS",
    "CROPS_PER_IMAGE",
    "DELIVERIES",
    "DETECTIONS",
    "GATEWAY_REFUSALS",
    "IMAGES",
    "IMAGE_SECONDS",
    "METRICS",
    "QUEUE_MESSAGES",
    "QUEUE_OLDEST_AGE_SECONDS",
    "REGISTRY",
    "RULE_DECISIONS",
    "STEP_GPUS",
    "STEP_RESULTS",
    "STEP_SECONDS",
    "STORE_WRITE_SECONDS",
    "WORKERS_MAX",
]


class _Registry(CollectorRegistry):
    """Without the time at which each counter was made, which the client exports as series of their own."""

    def collect(self) -> Iterable[Metric]:
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


REGISTRY: Final = _Registry()
"""Of this process."""

ProcessCollector(registry=REGISTRY)

_IMAGE_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)

IMAGES: Final = Counter(
    "visiongraph_images",
    "Images that were processed, by where they came from and how that ended.",
    ["pipeline", "source", "outcome"],
    registry=REGISTRY,
)
IMAGE_SECONDS: Final = Histogram(
    "visiongraph_image_seconds",
    "Time from the arrival of an image to its result; of images with a result.",
    ["source"],
    buckets=_IMAGE_SECONDS,
    registry=REGISTRY,
)
STEP_SECONDS: Final = Histogram(
    "visiongraph_step_seconds",
    "Time of one image in a step: decoding and cutting, the model's batch, and the rest of the call, which is waiting.",
    ["step", "phase"],
    buckets=_STEP_SECONDS,
    registry=REGISTRY,
)
STEP_RESULTS: Final = Counter(
    "visiongraph_step_results", "How steps ended on images.", ["step", "status"], registry=REGISTRY
)
RULE_DECISIONS: Final = Counter(
    "visiongraph_rule_decisions",
    "Conditions evaluated, once per image, and crop rules, once per detection.",
    ["step", "rule", "outcome"],
    registry=REGISTRY,
)
CROPS: Final = Counter("visiongraph_crops", "Detections that a step was run on.", ["step"], registry=REGISTRY)
CROPS_PER_IMAGE: Final = Histogram(
    "visiongraph_crops_per_image",
    "Detections of one image that a step was run on; of images on which its crop rule was evaluated.",
    ["step"],
    buckets=(0, 1, 2, 4, 8, 16, 32, 64),
    registry=REGISTRY,
)
DETECTIONS: Final = Counter(
    "visiongraph_detections",
    "Detections by class. The classes beyond the first hundred are counted as 'other'.",
    ["class"],
    registry=REGISTRY,
)
CONFIDENCE: Final = Histogram(
    "visiongraph_confidence",
    "Confidence of each detection and of each label.",
    ["step"],
    buckets=_TENTHS,
    registry=REGISTRY,
)
BATCH_SECONDS: Final = Histogram(
    "visiongraph_batch_seconds",
    "Time of the model for one batch; the sum is the time in which the model worked.",
    ["step"],
    buckets=_STEP_SECONDS,
    registry=REGISTRY,
)
BATCH_FILL_RATIO: Final = Histogram(
    "visiongraph_batch_fill_ratio",
    "Images in a batch of the model, as a share of max_batch_size.",
    ["step"],
    buckets=(0.125, 0.25, 0.5, 0.75, 1),
    registry=REGISTRY,
)
STEP_GPUS: Final = Gauge(
    "visiongraph_step_gpus",
    "GPUs that this process reserves for a step.",
    ["step"],
    registry=REGISTRY,
)
GATEWAY_REFUSALS: Final = Counter(
    "visiongraph_gateway_refusals",
    "Requests answered with a problem document, by its type.",
    ["reason"],
    registry=REGISTRY,
)
QUEUE_MESSAGES: Final = Gauge(
    "visiongraph_queue_messages",
    "Messages in the queue, as each worker sees them.",
    ["queue", "state"],
    registry=REGISTRY,
)
QUEUE_OLDEST_AGE_SECONDS: Final = Gauge(
    "visiongraph_queue_oldest_age_seconds",
    "Age of the oldest waiting message, as each worker sees it.",
    ["queue"],
    registry=REGISTRY,
)
DELIVERIES: Final = Counter(
    "visiongraph_deliveries",
    "Messages that workers received, by what they did with them.",
    ["queue", "outcome"],
    registry=REGISTRY,
)
WORKERS_MAX: Final = Gauge(
    "visiongraph_workers_max",
    "Workers that there may be, as each of them is configured.",
    ["queue"],
    registry=REGISTRY,
)
STORE_WRITE_SECONDS: Final = Histogram(
    "visiongraph_store_write_seconds",
    "Time to write an outcome, or a group of them to the journal.",
    ["outcome"],
    buckets=_STEP_SECONDS,
    registry=REGISTRY,
)

METRICS: Final = (
    IMAGES,
    IMAGE_SECONDS,
    STEP_SECONDS,
    STEP_RESULTS,
    RULE_DECISIONS,
    CROPS,
    CROPS_PER_IMAGE,
    DETECTIONS,
    CONFIDENCE,
    BATCH_SECONDS,
    BATCH_FILL_RATIO,
    STEP_GPUS,
    GATEWAY_REFUSALS,
    QUEUE_MESSAGES,
    QUEUE_OLDEST_AGE_SECONDS,
    DELIVERIES,
    WORKERS_MAX,
    STORE_WRITE_SECONDS,
)
