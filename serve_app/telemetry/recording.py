"""Counts images, their steps, and the batches of models.

Every series is made before the first image, so that Prometheus sees it begin at 0, and kept: a look-up by labels costs
three times as much as counting.
"""

from __future__ import annotations

from collections import Counter as Tally
from typing import Literal, TypeAlias

from prometheus_client import Counter

from classifiers import InputError
from graph import Plan
from graph.engine import Decisions, StepAnswer, StepOutcome
from graph.failures import DeadlineExceeded
from graph.plan import PlannedStep
from serve_app.telemetry.metrics import (
    BATCH_FILL_RATIO,
    BATCH_SECONDS,
    CONFIDENCE,
    CROPS,
    CROPS_PER_IMAGE,
    DETECTIONS,
    IMAGE_SECONDS,
    IMAGES,
    RULE_DECISIONS,
    STEP_GPUS,
    STEP_RESULTS,
    STEP_SECONDS,
)

__all__ = [
    "OUTCOMES",
    "PHASES",
    "BatchRecorder",
    "ImageOutcome",
    "ImageRecorder",
    "Source",
    "StepRecorder",
    "outcome_of",
]

Source: TypeAlias = Literal["http", "explain", "queue", "bulk"]
"""``explain``: images that ``POST /v1/explain`` ran, apart from those whose result a client waits for."""

ImageOutcome: TypeAlias = Literal["ok", "refused", "failed", "timed_out", "cancelled"]

OUTCOMES: tuple[ImageOutcome, ...] = ("ok", "refused", "failed", "timed_out", "cancelled")
"""``refused``: the image or the request is at fault; ``failed``: a step or a source; ``cancelled``: the client left."""

PHASES = ("queue", "decode", "model")
"""Of :class:`graph.engine.Timings` the last two, in this order."""

_STATUSES = ("ok", "skipped", "failed", "timed_out")
_MOST_CLASSES = 100
_OTHER = "other"


class ImageRecorder:
    """Counts the images of one pipeline from one source."""

    def __init__(self, pipeline: str, source: Source) -> None:
        self._ended = {outcome: IMAGES.labels(pipeline, source, outcome) for outcome in OUTCOMES}
        self._seconds = IMAGE_SECONDS.labels(source)

    def __call__(self, outcome: ImageOutcome, duration_s: float) -> None:
        """Count one image; ``duration_s``: since it arrived."""
        self._ended[outcome].inc()
        if outcome == "ok":
            self._seconds.observe(duration_s)


def outcome_of(error: Exception, *refusals: type[Exception]) -> ImageOutcome:
    """How an image ended with this error; ``refusals``: errors, beside :class:`classifiers.InputError`, where the image
    is at fault."""
    if isinstance(error, DeadlineExceeded):
        return "timed_out"
    return "refused" if isinstance(error, (InputError, *refusals)) else "failed"


class StepRecorder:
    """Counts what becomes of images in the steps of a plan: a :data:`graph.engine.StepObserver`."""

    def __init__(self, plan: Plan) -> None:
        self._steps = {step.name: _StepSeries(step) for step in plan}

    def __call__(self, step: PlannedStep, outcome: StepOutcome, decisions: Decisions) -> None:
        """Count the end of a step on an image."""
        self._steps[step.name].count(outcome, decisions)


class BatchRecorder:
    """Counts the batches of one step's model in this process."""

    def __init__(self, step: PlannedStep) -> None:
        self._seconds = BATCH_SECONDS.labels(step.name)
        self._fill = BATCH_FILL_RATIO.labels(step.name)
        self.max_size = step.serve.max_batch_size
        STEP_GPUS.labels(step.name).set(step.serve.num_gpus)

    def __call__(self, images: int, duration_s: float) -> None:
        """Count one batch."""
        self._seconds.observe(duration_s)
        self._fill.observe(images / self.max_size)


class _StepSeries:
    """The series of one step."""

    def __init__(self, step: PlannedStep) -> None:
        name = step.name
        self._results = {status: STEP_RESULTS.labels(name, status) for status in _STATUSES}
        self._phases = [STEP_SECONDS.labels(name, phase) for phase in PHASES]
        self._confidence = CONFIDENCE.labels(name)
        self._condition = {} if step.condition is None else _rule_series(name, "condition")
        self._crop_rule = {} if step.crops is None else _rule_series(name, "crops")
        if step.crops is not None:
            self._crops, self._crops_per_image = CROPS.labels(name), CROPS_PER_IMAGE.labels(name)

    def count(self, outcome: StepOutcome, decisions: Decisions) -> None:
        self._results[outcome.status].inc()
        if decisions.condition is not None:
            self._condition[decisions.condition].inc()
        if decisions.picked is not None:
            self._crop_rule[True].inc(decisions.picked)
            self._crop_rule[False].inc(decisions.rejected)
        if decisions.failed is not None:
            (self._condition if decisions.failed == "condition" else self._crop_rule)[None].inc()
        elif decisions.picked is not None:
            self._crops.inc(decisions.picked)
            self._crops_per_image.observe(decisions.picked)
        if outcome.answer is not None:
            self._count_answer(outcome.answer, outcome.queue_ms)

    def _count_answer(self, answer: StepAnswer, queue_ms: float) -> None:
        if answer.timings is not None:
            for phase, duration_ms in zip(self._phases, (queue_ms, *answer.timings), strict=True):
                phase.observe(duration_ms / 1000)
        if answer.result is None:
            return
        detections = answer.result.get("detections", ())
        for name, count in Tally(detection["class_name"] for detection in detections).items():
            _class_series(name).inc(count)
        for labelled in (*detections, *answer.result.get("objects", ()), answer.result):
            if (confidence := labelled.get("confidence")) is not None:
                self._confidence.observe(confidence)


def _rule_series(step: str, rule: str) -> dict[bool | None, Counter]:
    outcomes = {True: "true", False: "false", None: "failed"}
    return {held: RULE_DECISIONS.labels(step, rule, word) for held, word in outcomes.items()}


def _class_series(name: str) -> Counter:
    found = _classes.get(name)
    if found is None:
        label = name if len(_classes) < _MOST_CLASSES else _OTHER
        found = DETECTIONS.labels(label)
        if label == name:
            _classes[name] = found
    return found


# of this process, as the registry
_classes: dict[str, Counter] = {}
