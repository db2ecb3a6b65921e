"""The engine reports how each step ends, and what its rules decided."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import pytest
from toys import draw, encoded

from classifiers import BadImage
from graph import Engine, Frame, StepFailed, load_plan
from graph.engine import Decisions, StepAnswer, StepError, StepInfo, StepOutcome, Timings
from graph.engine.messages import Carried, CropSpec, StepRequest
from graph.plan import Plan, PlannedStep

FRAME = Frame.from_bytes(encoded(draw()))
SPEC = CropSpec(None, "stretch", 0.0)
FOUND = {
    "detections": [
        {"bbox": [0, 0, 9, 9], "confidence": 0.9, "class_id": 0, "class_name": name}
        for name in ("car", "person", "car")
    ],
    "detected_classes": ["car", "person"],
}


class Steps:
    """Answers with what it is given, or raises it."""

    crop_budget_bytes = None

    def __init__(self, plan: Plan, answers: Mapping[str, Any]) -> None:
        self._infos = {step.name: StepInfo(plan.step_digest(step.name), "", SPEC, f"{step.name}-1") for step in plan}
        self._answers = answers

    async def describe(self) -> Mapping[str, StepInfo]:
        return self._infos

    async def ready(self) -> None: ...

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        answer = self._answers.get(step, {})
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, dict):
            return StepAnswer(self._infos[step], answer, timings=Timings(0.0, 0.0))
        return answer


def step(name: str, depends_on: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "class": "toys.Size", **({"depends_on": depends_on} if depends_on else {}), **more}


async def observed(*steps: dict[str, Any], **answers: Any) -> dict[str, tuple[StepOutcome, Decisions]]:
    """What was reported of each step; each at most once."""
    plan = load_plan({"name": "test", "pipeline": list(steps)})
    reports: dict[str, tuple[StepOutcome, Decisions]] = {}

    def observe(step: PlannedStep, outcome: StepOutcome, decisions: Decisions) -> None:
        assert step.name not in reports
        reports[step.name] = outcome, decisions

    engine = Engine(plan, Steps(plan, {"detect": FOUND, **answers}), observer=observe)
    with contextlib.suppress(StepFailed, BadImage):
        await engine.run(FRAME)
    return reports


CASES = [
    ({}, "ok", Decisions()),
    ({"condition": "True"}, "ok", Decisions(condition=True)),
    ({"condition": "False", "crops": "True"}, "skipped", Decisions(condition=False)),
    ({"crops": "detection['class_name'] == 'car'"}, "ok", Decisions(picked=2, rejected=1)),
    ({"crops": "detection['class_name'] == 'bus'"}, "skipped", Decisions(picked=0, rejected=3)),
    ({"condition": "context['detect']['none'] == 1"}, "failed", Decisions(failed="condition")),
    (
        {"condition": "True", "crops": "detection['class_name'] == 'car' or detection['none'] == 1"},
        "failed",
        Decisions(condition=True, picked=1, failed="crops"),
    ),
]


@pytest.mark.parametrize(("rules", "status", "decisions"), CASES, ids=[str(case[0]) for case in CASES])
async def test_what_the_rules_decided(rules: dict[str, str], status: str, decisions: Decisions) -> None:
    reports = await observed(step("detect"), step("second", "detect", **{"crops": None, **rules}))
    outcome, found = reports["second"]
    assert (outcome.status, found) == (status, decisions)


async def test_a_step_that_depends_on_one_that_was_skipped() -> None:
    reports = await observed(
        step("detect"), step("b", "detect", condition="False", crops=None), step("c", "b", crops=None)
    )
    assert {name: outcome.status for name, (outcome, _) in reports.items()} == {
        "detect": "ok",
        "b": "skipped",
        "c": "skipped",
    }


async def test_a_failure_that_fails_the_image_is_reported() -> None:
    reports = await observed(step("detect", on_error="fail"), detect=ValueError("no"))
    assert reports["detect"][0].status == "failed"


async def test_an_image_that_is_at_fault_is_no_outcome_of_a_step() -> None:
    assert await observed(step("detect"), detect=BadImage("it is none")) == {}


async def test_the_result_has_the_parts_of_a_duration_and_the_replica() -> None:
    plan = load_plan({"name": "test", "pipeline": [step("detect"), step("b", "detect", crops="True")]})
    info = StepInfo(plan.step_digest("b"), "", SPEC, "b-1")
    along = StepAnswer(info, {"objects": []}, timings=Timings(2.25, 5.5))
    detect = StepAnswer(
        StepInfo(plan.step_digest("detect"), "", SPEC, "d-1"), FOUND, carried={"b": Carried((0, 1, 2), along, 10.0)}
    )
    result = await Engine(plan, Steps(plan, {"detect": detect})).run(FRAME)
    first, second = result["steps"]
    assert "timings" not in first
    assert first["replica"] == "d-1"
    assert second == {
        "name": "b",
        "status": "ok",
        "duration_ms": 10.0,
        "timings": {"queue_ms": 2.2, "decode_ms": 2.2, "model_ms": 5.5},
        "replica": "b-1",
    }


def test_waiting_is_what_is_left_of_the_duration() -> None:
    answer = StepAnswer(StepInfo("", "", SPEC), {}, timings=Timings(3.0, 4.0))
    assert StepOutcome("ok", 10.0, answer=answer).queue_ms == 3.0
    assert StepOutcome("ok", 5.0, answer=answer).queue_ms == 0.0, "clocks of two machines"
    assert StepOutcome("timed_out", 5.0).queue_ms == 5.0
    failed = StepAnswer(StepInfo("", "", SPEC), error=StepError("ValueError", "no"))
    assert "timings" not in StepOutcome("failed", 5.0, answer=failed).as_dict("a")
