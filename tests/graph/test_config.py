"""The models of the pipeline file, its JSON schema, and the split into structure and tunables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from graph.pipeline_file.loading import load
from graph.pipeline_file.report import PipelineError
from graph.pipeline_file.schema import PipelineConfig, StepConfig, json_schema
from graph.pipeline_file.serve_options import AutoscalingConfig, ServeConfig
from graph.pipeline_file.split import merge, structure, tunables

ROOT = Path(__file__).parents[2]
CONDITION = "'car' in context['det']['detected_classes']"
CROPS = "detection['class_name'] == 'car'"


def step(name: str = "det", kind: str = "zoo.Detector", **keys: Any) -> dict[str, Any]:
    return {"name": name, "class": kind, **keys}


def make(**keys: Any) -> dict[str, Any]:
    return step("make", "zoo.Make", depends_on="det", **{"params": {"makes": 3}, **keys})


def pipeline(*steps: dict[str, Any]) -> PipelineConfig:
    return load({"pipeline": list(steps)})


def errors_of(kind: type[Any], data: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(data)
    return [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]


# ---- what a step may be


def test_a_step_needs_a_name_and_a_class_and_the_rest_has_defaults() -> None:
    config = StepConfig.model_validate(step())
    assert (config.params, config.depends_on, config.condition, config.crops) == ({}, (), None, None)
    assert (config.timeout_ms, config.on_error, config.serve) == (None, None, ServeConfig())


@pytest.mark.parametrize(("written", "read"), [("a", ("a",)), (["a", "b"], ("a", "b")), ([], ())])
def test_depends_on_takes_a_name_or_a_list(written: object, read: tuple[str, ...]) -> None:
    assert StepConfig.model_validate(step(depends_on=written)).depends_on == read


def test_no_crops_and_null_crops_are_kept_apart() -> None:
    without, null = StepConfig.model_validate(step()), StepConfig.model_validate(step(crops=None))
    assert (without.crops_given, null.crops_given) == (False, True)
    assert "crops" not in without.to_dict()
    assert null.to_dict()["crops"] is None


def test_timeout_and_on_error_may_stand_in_serve() -> None:
    inside = StepConfig.model_validate(step(serve={"timeout_ms": 5, "on_error": "skip", "num_cpus": 1}))
    beside = StepConfig.model_validate(step(timeout_ms=5, on_error="skip", serve={"num_cpus": 1}))
    assert inside == beside
    assert inside.to_dict()["timeout_ms"] == 5


def test_timeout_in_both_places_is_a_mistake() -> None:
    assert [loc for loc, _ in errors_of(StepConfig, step(timeout_ms=5, serve={"timeout_ms": 5}))] == [
        "serve.timeout_ms"
    ]


@pytest.mark.parametrize(
    ("keys", "loc"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "1a"}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"name": "detection"}, "name"),
        ({"name": "gateway"}, "name"),
        ({"class": "Detector"}, "class"),
        ({"class": "zoo."}, "class"),
        ({"class": "zoo-x.Detector"}, "class"),
        ({"params": []}, "params"),
        ({"params": None}, "params"),
        ({"depends_on": None}, "depends_on"),
        ({"depends_on": ["a", "a"]}, "depends_on"),
        ({"depends_on": ["det"]}, "depends_on"),
        ({"depends_on": [3]}, "depends_on.0"),
        ({"condition": True}, "condition"),
        ({"condition": ""}, "condition"),
        ({"crops": 3}, "crops"),
        ({"crops_from": "a b"}, "crops_from"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": "500"}, "timeout_ms"),
        ({"timeout_ms": True}, "timeout_ms"),
        ({"on_error": "ignore"}, "on_error"),
        ({"serve": None}, "serve"),
        ({"serve": "gpu"}, "serve"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_what_a_step_must_not_be(keys: dict[str, Any], loc: str) -> None:
    assert [found for found, _ in errors_of(StepConfig, {**step(), **keys})] == [loc]


@pytest.mark.parametrize("value", [0, 0.25, 1, 1.0, 2, 4.0])
def test_gpus_are_a_share_or_whole(value: float) -> None:
    assert ServeConfig.model_validate({"num_gpus": value}).num_gpus == value


@pytest.mark.parametrize(
    ("keys", "loc", "message"),
    [
        ({"num_gpus": 1.5}, "num_gpus", "try 1 or 2"),
        ({"num_gpus": -0.5}, "num_gpus", "greater than or equal to 0"),
        ({"num_cpus": -1}, "num_cpus", "greater than or equal to 0"),
        ({"num_cpus": float("inf")}, "num_cpus", "finite"),
        ({"num_replicas": 0}, "num_replicas", "greater than or equal to 1"),
        ({"num_replicas": 1, "autoscaling": {"max_replicas": 2}}, "num_replicas", "keep one of them"),
        ({"max_batch_size": 0}, "max_batch_size", "greater than or equal to 1"),
        ({"max_batch_size": 2.0}, "max_batch_size", "valid integer"),
        ({"batch_wait_ms": -1}, "batch_wait_ms", "greater than or equal to 0"),
        ({"max_batch_size": 16, "max_ongoing_requests": 15}, "max_ongoing_requests", "try 32"),
        ({"max_ongoing_requests": 7}, "max_ongoing_requests", "at least max_batch_size (8)"),
        ({"max_queued_requests": 0}, "max_queued_requests", "greater than or equal to 1"),
        ({"memory_mb": 0}, "memory_mb", "greater than or equal to 1"),
        ({"resources": {"GPU": 1}}, "resources", "write `num_gpus`"),
        ({"resources": {"a10g": 0}}, "resources", "must be above 0"),
        ({"resources": {"a10g": "1"}}, "resources.a10g", "valid number"),
    ],
)
def test_what_serve_must_not_be(keys: dict[str, Any], loc: str, message: str) -> None:
    ((found, text),) = errors_of(ServeConfig, keys)
    assert found == loc
    assert message in text


def test_num_replicas_beside_a_broken_autoscaling_is_told_too() -> None:
    found = [loc for loc, _ in errors_of(ServeConfig, {"num_replicas": 2, "autoscaling": {"max_replicas": 0}})]
    assert found == ["autoscaling.max_replicas", "num_replicas"]


@pytest.mark.parametrize(
    ("keys", "loc"),
    [
        ({}, "max_replicas"),
        ({"max_replicas": 0}, "max_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas"),
        ({"min_replicas": 2, "max_replicas": 4, "initial_replicas": 1}, "initial_replicas"),
        ({"min_replicas": 2, "max_replicas": 4, "initial_replicas": 5}, "initial_replicas"),
        ({"max_replicas": 4, "target_ongoing_requests": 0}, "target_ongoing_requests"),
        ({"max_replicas": 4, "target_ongoing_crops": 0}, "target_ongoing_crops"),
        (
            {"max_replicas": 4, "target_ongoing_crops": 8.0, "target_ongoing_requests": 8.0},
            "target_ongoing_requests",
        ),
        ({"max_replicas": 4, "upscale_delay_s": -1}, "upscale_delay_s"),
        ({"max_replicas": 4, "downscale_delay_s": "1"}, "downscale_delay_s"),
        ({"max_replicas": 4, "min": 3}, "min"),
    ],
)
def test_what_autoscaling_must_not_be(keys: dict[str, Any], loc: str) -> None:
    assert [found for found, _ in errors_of(AutoscalingConfig, keys)] == [loc]


def test_a_replica_holds_two_batches_unless_told_otherwise() -> None:
    assert ServeConfig(max_batch_size=5).ongoing_requests == 10
    assert ServeConfig(max_batch_size=5, max_ongoing_requests=7).ongoing_requests == 7


def test_a_configuration_does_not_change() -> None:
    config = pipeline(step())
    with pytest.raises(ValidationError):
        config.pipeline[0].timeout_ms = 3  # type: ignore[misc]


# ---- as a mapping


FULL = {
    "name": "full",
    "limits": {"max_bytes": 1000, "max_pixels": 50_000_000},
    "pipeline": [
        step(params={"confidence": 0.5, "size": [1, 2]}, on_error="fail", timeout_ms=100),
        make(
            condition=CONDITION,
            crops=CROPS,
            crops_from="det",
            serve={"num_gpus": 0.5, "max_batch_size": 16, "autoscaling": {"min_replicas": 0, "max_replicas": 4}},
        ),
        step("whole", "zoo.Make", depends_on=["det", "make"], crops=None, params={"makes": 1, "confidence": 1}),
    ],
}


@pytest.mark.parametrize("data", [FULL, {"pipeline": [step()]}], ids=["full", "short"])
def test_a_configuration_and_its_mapping_are_the_same(data: dict[str, Any]) -> None:
    config = load(data)
    written = config.to_dict()
    assert load(json.loads(json.dumps(written))) == config
    assert load(written).to_dict() == written


# ---- structure and tunables


CASES = {
    "full": FULL,
    "short": {"pipeline": [step()]},
    "no crops key": {"pipeline": [step(), make()]},
    "crops null": {"pipeline": [step(), make(crops=None)]},
    "class with a crop rule as a root": {"pipeline": [step("make", "zoo.Make", params={"makes": 1}, crops=None)]},
    "crop rule of the class reads another": {
        "pipeline": [
            step(),
            step("r", "zoo.ReadsOther", depends_on=["det"]),
            step("q", "zoo.ReadsOther", depends_on="r", crops=None),
        ]
    },
    "crops_from without a class's own rule": {
        "pipeline": [
            step(),
            step("two"),
            step("k", "zoo.Keeper", depends_on=["det", "two"], crops=CROPS, crops_from="two"),
        ]
    },
    "small batches": {"pipeline": [step(serve={"max_batch_size": 2, "max_ongoing_requests": 4})]},
    "required tunable": {"pipeline": [step("t", "zoo.NeedsTunable", params={"threshold": 0.5})]},
    "tunables handed on": {"pipeline": [step(), make(params={"makes": 2, "confidence": 0.5, "device": "cuda"})]},
}


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_structure_and_tunables_give_the_configuration_back(data: dict[str, Any]) -> None:
    config = load(data)
    fixed, moving = (json.loads(json.dumps(part)) for part in (structure(config), tunables(config)))
    merged = load(merge(fixed, moving))
    assert merged == config
    assert merged.to_dict() == config.to_dict()  # keeps null and missing `crops` apart, as == does not


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_structure_alone_is_a_pipeline(data: dict[str, Any]) -> None:
    fixed = structure(load(data))
    alone = load(fixed)
    assert structure(alone) == fixed
    assert load(merge(fixed, {})) == alone


TUNED = {
    "condition": make(condition=CONDITION),
    "crops": make(crops=CROPS),
    "no crops": make(crops=None),
    "crops_from": make(crops_from="det"),
    "timeout": make(timeout_ms=3),
    "timeout in serve": make(serve={"timeout_ms": 3}),
    "on_error": make(on_error="fail"),
    "a tunable of the class": make(params={"makes": 3, "confidence": 0.9, "labels": ["a"]}),
    "batching": make(serve={"max_batch_size": 3, "batch_wait_ms": 1.5}),
    "limits": make(serve={"max_ongoing_requests": 9, "max_queued_requests": 3}),
    "an empty block": make(serve={}),
}


@pytest.mark.parametrize("tuned", TUNED.values(), ids=TUNED)
def test_tunables_do_not_show_in_the_structure(tuned: dict[str, Any]) -> None:
    assert structure(pipeline(step(), tuned)) == structure(pipeline(step(), make()))


FIXED = {
    "name": {**make(), "name": "other"},
    "class": make(**{"class": "zoo.Detector", "params": {}}),
    "params": make(params={"makes": 4}),
    "handed on": make(params={"makes": 3, "device": "cuda"}),
    "gpus": make(serve={"num_gpus": 1}),
    "replicas": make(serve={"num_replicas": 2}),
}


@pytest.mark.parametrize("changed", FIXED.values(), ids=FIXED)
def test_everything_else_does(changed: dict[str, Any]) -> None:
    before, after = pipeline(step(), make()), pipeline(step(), changed)
    assert structure(after) != structure(before)
    assert list(tunables(after).values()) == list(tunables(before).values())


def test_what_is_not_there_leaves_no_empty_blocks() -> None:
    config = pipeline(step(), step("bare", "zoo.Keeper", params={}, serve={}))
    assert structure(config)["pipeline"] == [step(), step("bare", "zoo.Keeper")]
    assert tunables(config) == {"det": {}, "bare": {}}


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        ({"mak": {"timeout_ms": 3}}, "unknown step 'mak'; did you mean 'make'?"),
        ({"make": {"timeout": 3}}, "not a tunable; did you mean 'timeout_ms'?"),
        ({"make": {"timeout_ms": 0}}, "must be at least 1; got 0"),
        ({"make": {"serve": {"max_batch_size": "8"}}}, "expected a whole number, for example 8; got the string '8'"),
    ],
)
def test_tunables_that_do_not_fit(tuned: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        load(merge(structure(pipeline(step(), make())), tuned))
    assert message in str(caught.value)


def test_merging_leaves_its_arguments_alone() -> None:
    config = load(FULL)
    fixed, moving = structure(config), tunables(config)
    before = json.dumps([fixed, moving])
    merge(fixed, moving)
    assert json.dumps([fixed, moving]) == before


# ---- JSON schema


VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_the_schema_is_a_schema() -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    models = [schema, *schema["$defs"].values()]
    assert len(models) == 5
    for model in models:
        assert model["additionalProperties"] is False
        for name, field in model["properties"].items():
            assert field.get("description"), f"{model['title']}.{name} has no description"


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_the_schema_takes_what_loads(data: dict[str, Any]) -> None:
    VALIDATOR.validate(data)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_takes_the_files_that_come_with_the_project(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "gateway"},
        {"name": "a b"},
        {"class": "Detector"},
        {"depends_on": ["a", "a"]},
        {"depends_on": 3},
        {"depend_on": "a"},
        {"timeout_ms": 0},
        {"on_error": "ignore"},
        {"serve": {"on_error": "ignore"}},
        {"serve": {"num_gpu": 1}},
        {"serve": {"autoscaling": {}}},
        {"params": []},
    ],
)
def test_the_schema_refuses_what_does_not_load(keys: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid({"pipeline": [{**step(), **keys}]})


def test_the_schema_takes_the_keys_that_may_stand_in_serve() -> None:
    VALIDATOR.validate({"pipeline": [step(serve={"timeout_ms": 3, "on_error": "skip"})]})


def test_each_example_in_the_schema_is_right() -> None:
    """They are shown in messages, as what to write."""
    schema = json_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, field in model["properties"].items():
            for example in field.get("examples", []):
                validator = jsonschema.Draft202012Validator({**field, "$defs": schema["$defs"]})
                assert validator.is_valid(example), f"{model['title']}.{name}: {example!r}"
