"""A detector that finds nothing and costs nothing: what is measured is the way from the queue to the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classifiers import BaseClassifier, Image
from graph import Plan, load_plan
from graph.engine.messages import CropSpec, StepAnswer, StepInfo, StepRequest

__all__ = ["PLAN", "NoopBackend", "NoopDetector"]


class NoopDetector(BaseClassifier):
    """Looks at nothing."""

    @property
    def name(self) -> str:
        return "noop"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return {"detections": []}


class NoopBackend:
    """Answers without decoding the image."""

    crop_budget_bytes: int | None = None

    def __init__(self, plan: Plan) -> None:
        spec = CropSpec(None, "stretch", 0.0)
        self._infos = {step.name: StepInfo(plan.step_digest(step.name), "", spec) for step in plan}

    async def describe(self) -> Mapping[str, StepInfo]:
        return self._infos

    async def ready(self) -> None:
        pass

    async def call(self, step: str, request: StepRequest) -> StepAnswer:  # noqa: ARG002
        return StepAnswer(self._infos[step], {"detections": [], "detected_classes": []})


PLAN = load_plan({"name": "noop", "pipeline": [{"name": "detect", "class": "benchmarks.intake.noop.NoopDetector"}]})
