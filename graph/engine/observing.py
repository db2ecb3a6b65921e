"""How a step ends on one image, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from graph.engine.messages import StepAnswer
from graph.plan import PlannedStep

__all__ = ["Decisions", "Status", "StepObserver", "StepOutcome"]

Status = Literal["ok", "skipped", "failed", "timed_out"]


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """How a step ended. ``duration_ms``: from its call to its answer; 0 for one that was skipped."""

    status: Status
    duration_ms: float = 0.0
    reason: str | None = None
    error: Mapping[str, str] | None = None
    answer: StepAnswer | None = None

    @property
    def queue_ms(self) -> float:
        """The part of the duration that is neither decoding nor the model: waiting for a replica and for its model, and
        the way there and back."""
        timings = None if self.answer is None else self.answer.timings
        return self.duration_ms if timings is None else max(0.0, self.duration_ms - sum(timings))

    def as_dict(self, name: str) -> dict[str, Any]:
        """The entry of the result's ``steps``."""
        entry: dict[str, Any] = {"name": name, "status": self.status}
        if self.status != "skipped":
            entry["duration_ms"] = self.duration_ms
        if self.reason is not None:
            entry["reason"] = self.reason
        if self.error is not None:
            entry["error"] = dict(self.error)
        if self.answer is not None:
            if self.answer.timings is not None:
                parts = {"queue_ms": self.queue_ms, **self.answer.timings._asdict()}
                entry["timings"] = {part: round(duration_ms, 1) for part, duration_ms in parts.items()}
            if self.answer.info.replica is not None:
                entry["replica"] = self.answer.info.replica
        return entry


@dataclass(slots=True)
class Decisions:
    """What the rules of a step decided for one image.

    Attributes:
        condition: whether it held; ``None``: there is none, or it was not evaluated.
        picked: detections that the crop rule picked; ``None``: there is none, or it was not evaluated.
        rejected: detections that it did not pick.
        failed: the rule that could not be evaluated.
    """

    condition: bool | None = None
    picked: int | None = None
    rejected: int = 0
    failed: Literal["condition", "crops"] | None = None


StepObserver: TypeAlias = Callable[[PlannedStep, StepOutcome, Decisions], None]
"""Called on the event loop when a step has ended on an image, so it must be quick and never raise. Not called for
steps that are cancelled, nor where the image or a change of the pipeline is at fault."""
