"""The messages between the engine and its steps, in one process or across machines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from classifiers import Image, InputError, ResizeMode
from graph.engine.frame import Frame

__all__ = [
    "Carried",
    "CropSpec",
    "Priority",
    "StepAnswer",
    "StepError",
    "StepInfo",
    "StepRequest",
    "Target",
    "Timings",
    "loaded_digest",
]


# Every answer has these named tuples: dataclasses take longer to pickle.
class CropSpec(NamedTuple):
    """How a step wants its crops: ``size`` (H, W) or ``None`` for their own size; ``padding`` is a share of the box,
    0..1."""

    size: tuple[int, int] | None
    resize: ResizeMode
    padding: float


def loaded_digest(config: str, weights: str) -> str:
    """SHA-256 of a step's configuration (``Plan.step_digest``) and weights: a part of the fingerprint of a result."""
    return hashlib.sha256(f"{config}:{weights}".encode()).hexdigest()


class StepInfo(NamedTuple):
    """The configuration of a loaded step. Every answer carries the one that computed it.

    Attributes:
        config: ``Plan.step_digest`` of the plan that it was configured with.
        weights: hash of its weights.
        crop: how it wants its crops.
        replica: which process has loaded it; ``None``: this one, without a cluster.
    """

    config: str
    weights: str
    crop: CropSpec
    replica: str | None = None

    @property
    def digest(self) -> str:
        """See :func:`loaded_digest`."""
        return loaded_digest(self.config, self.weights)


class Priority(IntEnum):
    """Which calls are taken first where several wait for the same step."""

    INTERACTIVE = 0
    """A client waits for the answer."""
    QUEUE = 1
    """A message from a queue."""
    BACKGROUND = 2
    """Nobody waits: a candidate that is compared with the deployed version."""


class Timings(NamedTuple):
    """What an answer took where the step is loaded.

    Attributes:
        decode_ms: decoding the image, cutting crops, checking the result.
        model_ms: the batches of the model that the call was in.
    """

    decode_ms: float
    model_ms: float


@dataclass(frozen=True, slots=True)
class Target:
    """A detection to look at: its index in the detector's list, and the detection itself."""

    index: int
    detection: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StepRequest:
    """One call of one step for one image.

    Attributes:
        image: what rules see as ``image``: ``width``, ``height``, ``metadata``.
        context: the results of the steps that this one depends on, by name.
        targets: the detections to look at, or ``None`` for the whole image.
        crops: the pixels of ``targets``, already cut as ``crop`` says; ``None``: cut them from ``frame``.
        crop: how ``crops`` were cut.
        frame: the encoded image; ``None`` if ``crops`` are enough.
        cut_for: the steps whose crops are to be returned with the answer, and how they want them.
        crop_budget_bytes: limit on the crops that are returned with the answer; crops beyond it are left out.
        request_id: the request's identity, for logs.
        sha256: of the image's bytes, in hex.
        priority: where it waits with others.
        expires_at: when its caller stops waiting, by the clock of the caller's event loop; ``None``: never.
        traceparent: of the caller's span (W3C Trace Context), where it is sampled.
    """

    image: Mapping[str, Any]
    context: Mapping[str, Any]
    targets: tuple[Target, ...] | None = None
    crops: tuple[Image, ...] | None = None
    crop: CropSpec | None = None
    frame: Frame | None = None
    cut_for: Mapping[str, CropSpec] = field(default_factory=dict)
    crop_budget_bytes: int | None = None
    request_id: str = ""
    sha256: str = ""
    priority: Priority = Priority.INTERACTIVE
    expires_at: float | None = None
    traceparent: str = ""


@dataclass(frozen=True, slots=True)
class StepError:
    """Why a step has no result. ``input_error`` is set where the image is at fault."""

    type: str
    detail: str
    input_error: InputError | None = None


@dataclass(frozen=True, slots=True)
class StepAnswer:
    """What a step answers: ``result`` (plain JSON values) or ``error``; or neither, where ``wants_frame``.

    Attributes:
        info: the configuration and weights that made the answer, taken when the model ran.
        crops: for each step in ``cut_for`` whose rules could be decided here: its crops by the index of their
            detection.
        carried: answers of steps that depend on this one and run in the same process, by name; their crops need not
            travel.
        wants_frame: the crops that were sent were cut in another way than the step wants them now; ask again with
            the frame.
        timings: ``None`` where the model did not run.
    """

    info: StepInfo
    result: dict[str, Any] | None = None
    error: StepError | None = None
    crops: Mapping[str, Mapping[int, Image]] = field(default_factory=dict)
    carried: Mapping[str, Carried] = field(default_factory=dict)
    wants_frame: bool = False
    timings: Timings | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Carried:
    """The answer of a dependent step, returned together with that of the step it depends on.

    Attributes:
        targets: indices of the detections that the step looked at.
        duration_ms: how long it took.
    """

    targets: tuple[int, ...]
    answer: StepAnswer
    duration_ms: float
