from __future__ import annotations

from typing import Any

import pytest
from toys import draw

from graph import VisionPipeline
from graph.engine.explanation import StepExplanation, explain

PIPELINE: dict[str, Any] = {
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {
            "name": "make",
            "class": "toys.Size",
            "depends_on": "detect",
            "condition": "'car' in context['detect']['detected_classes']",
            "crops": "detection['class_name'] == 'car' and detection['confidence'] > 0.5",
        },
        {
            "name": "bus",
            "class": "toys.Size",
            "depends_on": "detect",
            "condition": "'bus' in context['detect']['detected_classes']",
        },
        {"name": "after_bus", "class": "toys.Size", "depends_on": "bus", "condition": "True"},
        {"name": "broken", "class": "toys.Size", "depends_on": "detect", "crops": "detection['sise'] > 1"},
        {"name": "nowhere", "class": "toys.Size", "depends_on": "make", "crops": "True"},
    ]
}


@pytest.fixture(scope="module")
def steps() -> dict[str, StepExplanation]:
    with VisionPipeline(PIPELINE) as pipeline:
        result = pipeline.run(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))
        return {step.name: step for step in explain(pipeline.plan, result)}


def test_a_condition_that_held(steps: dict[str, StepExplanation]) -> None:
    decision = steps["make"].condition
    assert decision is not None
    assert decision.held is True
    assert dict(decision.values) == {"context['detect']['detected_classes']": ["car", "person"]}


def test_each_detection_has_its_decision(steps: dict[str, StepExplanation]) -> None:
    assert [(d.subject, d.held) for d in steps["make"].crops] == [("#0 person 0.9", False), ("#1 car 0.9", True)]
    assert ("detection['class_name']", "person") in steps["make"].crops[0].values


def test_a_condition_that_did_not_hold_ends_there(steps: dict[str, StepExplanation]) -> None:
    step = steps["bus"]
    assert (step.status, step.crops) == ("skipped", ())
    assert step.condition is not None
    assert step.condition.held is False
    assert step.why is not None
    assert step.why.startswith("condition is false")


def test_a_step_that_never_came_to_its_rules(steps: dict[str, StepExplanation]) -> None:
    step = steps["after_bus"]
    assert (step.condition, step.crops) == (None, ())
    assert step.why == "depends on bus, which was skipped"


def test_a_rule_that_cannot_be_decided_says_why(steps: dict[str, StepExplanation]) -> None:
    step = steps["broken"]
    assert step.status == "failed"
    assert {d.held for d in step.crops} == {None}
    assert "sise" in (step.crops[0].error or "")


def test_crops_without_detections_say_so(steps: dict[str, StepExplanation]) -> None:
    [decision] = steps["nowhere"].crops
    assert decision.held is None
    assert "no detections to crop from" in (decision.error or "")
