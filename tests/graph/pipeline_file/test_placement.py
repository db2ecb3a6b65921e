"""Steps that share a process: which may, and what the plan makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graph.pipeline_file.report import PipelineError
from graph.plan.plan import Plan, load_plan

DETECT = {"name": "detect", "class": "toys.Blobs"}
COLOUR = {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"}
WHOLE = {"name": "whole", "class": "toys.Size", "depends_on": "detect"}


def at(step: dict[str, Any], **serve: Any) -> dict[str, Any]:
    return {**step, "serve": serve}


def plan(*steps: dict[str, Any]) -> Plan:
    return load_plan({"pipeline": list(steps)})


def test_without_the_key_each_step_has_a_deployment() -> None:
    made = plan(DETECT, COLOUR)
    assert made.hosts == ("detect", "colour")
    assert [step.carries for step in made] == [(), ()]
    assert made.hosted_by("ingress") == ()


def test_steps_move_in_with_the_ingress_and_with_each_other() -> None:
    made = plan(at(DETECT, colocate_with="ingress"), at(COLOUR, colocate_with="detect"), WHOLE)
    assert made.hosts == ("whole",)
    assert [step.name for step in made.hosted_by("ingress")] == ["detect", "colour"]
    assert made["detect"].carries == ()  # in the ingress a call costs nothing


def test_the_order_of_the_file_does_not_matter() -> None:
    made = plan(at(COLOUR, colocate_with="detect"), DETECT)
    assert made.hosts == ("detect",)
    assert [step.name for step in made.hosted_by("detect")] == ["colour", "detect"]


@pytest.mark.parametrize(
    ("steps", "carried"),
    [
        ((DETECT, at(COLOUR, colocate_with="detect")), ("colour",)),
        ((DETECT, at(WHOLE, colocate_with="detect")), ()),
        ((DETECT | {"timeout_ms": 90}, at(COLOUR, colocate_with="detect")), ()),
        ((DETECT, at(COLOUR | {"timeout_ms": 90}, colocate_with="detect")), ()),
        ((DETECT, WHOLE, at(COLOUR | {"depends_on": ["detect", "whole"]}, colocate_with="detect")), ()),
    ],
    ids=["crops", "whole image", "time limit of the host", "time limit", "needs another one too"],
)
def test_what_is_answered_in_one_call(steps: tuple[dict[str, Any], ...], carried: tuple[str, ...]) -> None:
    assert plan(*steps)["detect"].carries == carried


def test_the_identity_of_results_is_the_same_everywhere() -> None:
    apart = plan(DETECT, COLOUR)
    together = plan(at(DETECT, colocate_with="ingress"), at(COLOUR, colocate_with="detect"))
    assert apart.structure_digest == together.structure_digest


def test_what_runs_in_the_ingress_decodes_nothing_again() -> None:
    steps = at(DETECT, colocate_with="ingress"), at(WHOLE, colocate_with="detect")
    assert plan(*steps).notes == ()
    assert len(plan(DETECT, steps[1]).notes) == 1


@pytest.mark.parametrize(
    ("steps", "key", "message"),
    [
        (
            (DETECT, at(COLOUR, colocate_with="ingress")),
            "colocate_with",
            "only a step without dependencies may",
        ),
        ((at(DETECT, colocate_with="gateway"), COLOUR), "colocate_with", "the ingress is called 'ingress' here"),
        ((at(DETECT, colocate_with="colour"), COLOUR), "colocate_with", "with the ingress only; write ingress"),
        (
            (DETECT, at(COLOUR, colocate_with="detct")),
            "colocate_with",
            "'detct' is no step of this file; did you",
        ),
        (
            (DETECT, WHOLE, at(COLOUR, colocate_with="whole")),
            "colocate_with",
            "'whole' is not among the steps",
        ),
        (
            (DETECT, at(COLOUR, colocate_with="colour")),
            "colocate_with",
            "'colour' is not among the steps",
        ),
        ((DETECT, at(COLOUR, colocate_with=3)), "colocate_with", "expected a string"),
        ((at(DETECT, colocate_with="ingress", num_replicas=2),), "num_replicas", "move it to the `gateway:` block"),
        (
            (at(DETECT, colocate_with="ingress", autoscaling={"max_replicas": 2}),),
            "autoscaling",
            "has no effect in the process of 'ingress'",
        ),
        (
            (DETECT, at(COLOUR, colocate_with="detect", max_queued_requests=3)),
            "max_queued_requests",
            "move it to the `serve` of 'detect'",
        ),
        (
            (at(DETECT, num_gpus=0.75), at(COLOUR, colocate_with="detect", num_gpus=0.5)),
            "num_gpus",
            "'detect' and 'colour' share a process and take 1.25 GPUs together",
        ),
    ],
)
def test_any_other_arrangement_is_a_mistake(
    tmp_path: Path, steps: tuple[dict[str, Any], ...], key: str, message: str
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(yaml.safe_dump({"pipeline": list(steps)}, sort_keys=False))
    with pytest.raises(PipelineError) as caught:
        load_plan(file)
    [mistake] = caught.value.mistakes
    assert message in mistake.message
    assert mistake.key == f"serve.{key}"
    assert mistake.line is not None
    assert key in file.read_text().splitlines()[mistake.line - 1]


def test_in_a_cycle_there_is_no_host_to_look_for() -> None:
    with pytest.raises(PipelineError, match="a cycle"):
        plan(
            at(DETECT | {"depends_on": "colour"}, colocate_with="colour"),
            at(COLOUR, colocate_with="detect", num_gpus=1),
        )


def test_ingress_is_no_name_of_a_step() -> None:
    with pytest.raises(PipelineError, match="'ingress' is reserved"):
        plan(DETECT | {"name": "ingress"})
