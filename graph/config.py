"""What may stand in a pipeline file. Closed and frozen; the descriptions become the JSON schema that editors use.

Whether the parts fit each other (classes, dependencies, rules) is checked in :mod:`graph.loading`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from graph._classes import constructor_of, default_crops_problem, import_class
from graph._report import Report
from graph._wording import report_validation_error
from graph.mistakes import did_you_mean

__all__ = [
    "AutoscalingConfig",
    "LimitsConfig",
    "PipelineConfig",
    "ServeConfig",
    "StepConfig",
    "json_schema",
    "merge",
    "structure",
    "tunables",
]

RESERVED_NAMES = frozenset(
    {"detection", "gateway"}
)  # `context["detection"]` is the crop's own; the ingress is `gateway`
STEP_NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
CLASS_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$"

_MOVED = ("timeout_ms", "on_error")  # may stand in `serve:` too
_RULES = ("condition", "crops", "crops_from", "timeout_ms", "on_error")
_BATCHING = ("max_batch_size", "batch_wait_ms", "max_ongoing_requests")


def _mistake(message: str) -> NoReturn:
    raise PydanticCustomError("pipeline_mistake", "{message}", {"message": message})


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LimitsConfig(_Closed):
    """Images over a limit are refused before their pixels are decoded."""

    max_bytes: int = Field(32 * 2**20, ge=1, description="Largest encoded image, in bytes.", examples=[33554432])
    max_pixels: int = Field(50_000_000, ge=1, description="Largest image, width x height.", examples=[50000000])


class AutoscalingConfig(_Closed):
    """Between how many replicas the step moves with its load."""

    min_replicas: int = Field(1, ge=0, description="Fewest replicas; 0 lets an idle step go away.", examples=[1])
    max_replicas: int = Field(ge=1, description="Most replicas.", examples=[4])
    initial_replicas: int | None = Field(
        None, ge=0, description="Replicas at the start; null: `min_replicas`.", examples=[1]
    )
    target_ongoing_requests: float | None = Field(
        None,
        gt=0,
        description="Requests under way that one replica should have; null: one batch, `max_batch_size`.",
        examples=[8],
    )
    upscale_delay_s: float = Field(
        30, ge=0, description="Seconds that the load must stay high before replicas are added.", examples=[30]
    )
    downscale_delay_s: float = Field(
        600, ge=0, description="Seconds that the load must stay low before replicas go away.", examples=[600]
    )

    @field_validator("max_replicas")
    @classmethod
    def _not_below_the_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_replicas")
        if least is not None and value < least:
            _mistake(f"must be at least min_replicas, which is {least}; got {value}")
        return value

    @field_validator("initial_replicas")
    @classmethod
    def _between_least_and_most(cls, value: int | None, info: ValidationInfo) -> int | None:
        least, most = info.data.get("min_replicas"), info.data.get("max_replicas")
        if value is not None and least is not None and most is not None and not least <= value <= most:
            _mistake(f"must be between min_replicas ({least}) and max_replicas ({most}); got {value}")
        return value


def _with_moved_keys(schema: dict[str, Any]) -> None:
    """Let editors complete in ``serve`` what StepConfig takes out of it."""
    better = "The same as beside `serve`, where it is better written."
    schema["properties"] |= {
        "timeout_ms": {"type": ["integer", "null"], "minimum": 1, "description": better},
        "on_error": {"enum": ["fail", "skip", None], "description": better},
    }


class ServeConfig(_Closed):
    """How the step is deployed on Ray Serve. Without a cluster only `max_batch_size` counts."""

    model_config = ConfigDict(json_schema_extra=_with_moved_keys)

    num_cpus: float = Field(0.25, ge=0, description="CPU cores a replica reserves.", examples=[0.25])
    num_gpus: float = Field(
        0, ge=0, description="GPUs a replica reserves: a share up to 1, or a whole number above.", examples=[0.25]
    )
    memory_mb: int | None = Field(None, ge=1, description="Memory a replica reserves, in MiB.", examples=[2048])
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources a replica reserves.", examples=[{"a10g": 1}]
    )
    autoscaling: AutoscalingConfig | None = Field(
        None,
        description="Replicas follow the load; instead of `num_replicas`.",
        examples=[{"min_replicas": 1, "max_replicas": 4}],
    )
    num_replicas: int | None = Field(
        None, ge=1, description="A fixed number of replicas; null: one, or as `autoscaling` says.", examples=[2]
    )
    max_batch_size: int = Field(
        8, ge=1, description="Most images or crops that the classifier gets at once.", examples=[8]
    )
    # Small, because a batch gathers by itself while the model is busy with the one before it; the wait is there for
    # calls that come a moment after the model is free. At low load it is pure latency: 4 ms of about 100 for two steps.
    batch_wait_ms: float = Field(
        2, ge=0, description="Longest wait for a batch to fill once the model is free, in milliseconds.", examples=[2]
    )
    max_ongoing_requests: int | None = Field(
        None,
        ge=1,
        description="Requests that a replica holds at once; null: twice `max_batch_size`, one runs, one gathers.",
        examples=[16],
    )
    max_queued_requests: int | None = Field(
        None,
        ge=1,
        description="Requests that may wait at each caller before more are refused; null: no limit.",
        examples=[200],
    )

    @property
    def ongoing_requests(self) -> int:
        """``max_ongoing_requests``, or its default."""
        return self.max_ongoing_requests or 2 * self.max_batch_size

    @field_validator("num_gpus")
    @classmethod
    def _share_or_whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            fix = f"try {math.floor(value)} or {math.ceil(value)}"
            _mistake(f"must be a share up to 1 or a whole number of GPUs; got {value:g}, {fix}")
        return value

    @field_validator("resources")
    @classmethod
    def _known_resources(cls, value: dict[str, float]) -> dict[str, float]:
        own_keys = {"cpu": "num_cpus", "gpu": "num_gpus", "memory": "memory_mb"}
        for name, amount in value.items():
            if name.lower() in own_keys:
                _mistake(f"{name!r} has a key of its own: write `{own_keys[name.lower()]}`")
            if amount <= 0:
                _mistake(f"{name!r} must be above 0; got {amount:g}")
        return value

    @field_validator("num_replicas")
    @classmethod
    def _one_way_to_scale(cls, value: int | None, info: ValidationInfo) -> int | None:
        has_autoscaling = info.data.get("autoscaling", "invalid") is not None
        if value is not None and has_autoscaling:
            _mistake("cannot stand beside `autoscaling`; keep one of them")
        return value

    @field_validator("max_ongoing_requests")
    @classmethod
    def _room_for_a_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("max_batch_size")
        if value is not None and batch is not None and value < batch:
            _mistake(f"must be at least max_batch_size ({batch}), or no batch ever fills; got {value}, try {2 * batch}")
        return value


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


StepName = Annotated[str, StringConstraints(pattern=STEP_NAME, max_length=100)]
Rule = Annotated[str, StringConstraints(min_length=1)]


class StepConfig(_Closed):
    """One classifier and when it runs."""

    name: StepName = Field(
        description="Its key in the result; letters, digits, `_` and `-`.",
        examples=["object_detection"],
        json_schema_extra={"not": {"enum": [*sorted(RESERVED_NAMES)]}},
    )
    class_path: str = Field(
        alias="class",
        pattern=CLASS_PATH,
        description="Dotted path of a `BaseClassifier` in any installed package.",
        examples=["classifiers.objects.ObjectClassifier"],
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments of the class's constructor. Relative paths are relative to this file.",
        examples=[{"confidence": 0.25}],
    )
    depends_on: Annotated[
        tuple[str, ...],
        BeforeValidator(_as_tuple),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string", "pattern": STEP_NAME},
                    {"type": "array", "items": {"type": "string", "pattern": STEP_NAME}, "uniqueItems": True},
                ]
            }
        ),
    ] = Field((), description="The step, or the steps, whose results this one needs.", examples=["object_detection"])
    condition: Rule | None = Field(
        None,
        description="Decided once an image, over `context` (the results of the steps it depends on) and `image`. "
        "False: the step is skipped.",
        examples=["'car' in context['object_detection']['detected_classes']"],
    )
    crops: Rule | None = Field(
        None,
        description="Decided once a detection: which become crops for this step. Without this key the class's own rule "
        "counts; null: the whole image.",
        examples=["detection['class_name'] == 'person'"],
    )
    crops_from: StepName | None = Field(
        None,
        description="Whose detections `crops` speaks of, where several of the steps it depends on have some.",
        examples=["object_detection"],
    )
    timeout_ms: int | None = Field(
        None,
        ge=1,
        description="Longest time for this step, in milliseconds; null: the request's deadline.",
        examples=[500],
    )
    on_error: Literal["fail", "skip"] | None = Field(
        None,
        description="What a failure means: `fail` fails the request, `skip` goes on without this step. null: `fail` "
        "for a step without dependencies, `skip` for others.",
        examples=["skip"],
    )
    serve: ServeConfig = Field(
        default_factory=ServeConfig, description="How it is deployed on Ray Serve.", examples=[{"num_gpus": 0.25}]
    )

    @property
    def crops_given(self) -> bool:
        """Whether the file has the key ``crops``: ``null`` means the whole image, no key the class's own rule."""
        return "crops" in self.model_fields_set

    @model_validator(mode="before")
    @classmethod
    def _take_out_of_serve(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("serve"), dict):
            return data
        serve = dict(data["serve"])
        # a key that stands in both places stays in `serve`, where it is an unknown key
        moved = {key: serve.pop(key) for key in _MOVED if key in serve and key not in data}
        return {**data, **moved, "serve": serve}

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value in RESERVED_NAMES:
            _mistake(f"{value!r} is reserved; choose another name")
        return value

    @field_validator("depends_on")
    @classmethod
    def _other_steps_once(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        repeated = sorted({name for name in value if value.count(name) > 1})
        if repeated:
            _mistake(f"{repeated[0]!r} stands twice; keep one")
        if info.data.get("name") in value:
            _mistake("a step cannot depend on itself; remove its own name")
        return value

    def to_dict(self) -> dict[str, Any]:
        """The step as it would stand in a file, without what is default. Plain JSON values."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if self.crops_given:
            data["crops"] = self.crops
        return data


class PipelineConfig(_Closed):
    """A pipeline file: classifiers, and when each of them runs."""

    name: str = Field(
        "pipeline",
        min_length=1,
        max_length=100,
        description="Name in results and of the Serve application; by default the file's name without its ending.",
        examples=["demo"],
    )
    pipeline: Annotated[tuple[StepConfig, ...], Field(strict=False)] = Field(
        min_length=1,
        description="The steps. Their order is that of the results; what runs when follows from `depends_on`.",
        examples=[[{"name": "object_detection", "class": "classifiers.objects.ObjectClassifier"}]],
    )
    limits: LimitsConfig = Field(
        default_factory=LimitsConfig, description="What images are taken.", examples=[{"max_bytes": 33554432}]
    )

    def to_dict(self) -> dict[str, Any]:
        """The pipeline as a mapping for :func:`graph.loading.load`, without what is default. Plain JSON values."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"pipeline"})
        return {**data, "name": self.name, "pipeline": [step.to_dict() for step in self.pipeline]}


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the pipeline file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PipelineConfig.model_json_schema(by_alias=True),
    }


def structure(config: PipelineConfig) -> dict[str, Any]:
    """What cannot change while the application runs: the pipeline without what :func:`tunables` takes out.

    It is a pipeline itself, and the same for every value of the tunables.
    """
    return {**config.to_dict(), "pipeline": [_split(step)[0] for step in config.pipeline]}


def tunables(config: PipelineConfig) -> dict[str, dict[str, Any]]:
    """What can be applied in place, by step.

    Rules, ``timeout_ms``, ``on_error``, batching, and those ``params`` that the class names in ``tunables``; one that
    the constructor cannot do without belongs to the structure.
    """
    return {step.name: _split(step)[1] for step in config.pipeline}


def merge(structure: Mapping[str, Any], tunables: Mapping[str, Mapping[str, Any]]) -> PipelineConfig:
    """The pipeline that :func:`structure` and :func:`tunables` were taken from.

    Raises:
        PipelineError: they do not fit each other.
    """
    data = deepcopy(dict(structure))
    steps = {step["name"]: step for step in data["pipeline"]}
    report = Report(None, data)
    for name, values in tunables.items():
        if name not in steps:
            report.add(("tunables", name), f"unknown step {name!r}{did_you_mean(name, steps)}")
            continue
        step = steps[name]
        step.pop("crops", None)  # a stand-in of structure()
        for key, value in values.items():
            if key in ("params", "serve"):
                step[key] = {**step.get(key, {}), **value}
            elif key in _RULES:
                step[key] = value
            else:
                report.add(("tunables", name, key), f"not a tunable{did_you_mean(key, (*_RULES, 'params', 'serve'))}")
    report.raise_if_any()
    try:
        return PipelineConfig.model_validate(data)
    except ValidationError as error:
        report_validation_error(error, PipelineConfig, report)
        report.raise_if_any()
        raise


def _split(step: StepConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    fixed = step.to_dict()
    moving: dict[str, Any] = {key: fixed.pop(key) for key in _RULES if key in fixed}
    for block, keys in (("params", _tunable_params(step.class_path)), ("serve", _BATCHING)):
        values = fixed.pop(block, {})
        taken = {key: value for key, value in values.items() if key in keys}
        left = {key: value for key, value in values.items() if key not in keys}
        # an empty block is left out: the structure must not show whether a tunable was set
        moving |= {block: taken} if taken else {}
        fixed |= {block: left} if left else {}
    if _needs_whole_image(step):
        fixed["crops"] = None
    return fixed, moving


def _tunable_params(class_path: str) -> frozenset[str]:
    cls = import_class(class_path)
    parameters = constructor_of(cls).parameters
    return frozenset(key for key in cls.tunables if key not in parameters or not parameters[key].required)


def _needs_whole_image(step: StepConfig) -> bool:
    """Whether the class's own crop rule cannot stand in for the one that was taken out."""
    return default_crops_problem(import_class(step.class_path), step.depends_on) is not None
