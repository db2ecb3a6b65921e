"""The keys of a pipeline file, and of each of its steps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from classifiers.imaging import ImageLimits
from classifiers.validation import Closed, mistake
from graph.pipeline_file.serve_options import INGRESS, ServeConfig

__all__ = ["CLASS_PATH", "PipelineConfig", "StepConfig", "json_schema"]

# In a context `detection` is the crop's own detection; the ingress deployment is called `gateway`, and `ingress` where
# steps share its process; `worker` is the deployment that consumes a queue.
RESERVED_NAMES = frozenset({"detection", "gateway", INGRESS, "worker"})
STEP_NAME = r"^[A-Za-z][A-Za-z0-9_-]*$"
CLASS_PATH = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$"

_MOVED = ("timeout_ms", "on_error")  # may be given in `serve` too


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


StepName = Annotated[str, StringConstraints(pattern=STEP_NAME, max_length=100)]
Rule = Annotated[str, StringConstraints(min_length=1)]


class StepConfig(Closed, strict=True):
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
        description="Evaluated once per image, over `context` (the results of the steps it depends on) and `image`. "
        "False: the step is skipped.",
        examples=["'car' in context['object_detection']['detected_classes']"],
    )
    crops: Rule | None = Field(
        None,
        description="Evaluated once per detection: true makes it a crop for this step. Without this key the class's "
        "own rule applies; null: the whole image.",
        examples=["detection['class_name'] == 'person'"],
    )
    crops_from: StepName | None = Field(
        None,
        description="The step whose detections `crops` refers to, where several dependencies have detections.",
        examples=["object_detection"],
    )
    decode: Literal["full", "reduced"] = Field(
        "full",
        description="`reduced`: a JPEG that is larger than this step's classifier needs is decoded for it at 1/2, 1/4 "
        "or 1/8 of its size. Boxes are still pixels of the full image, and crops are still cut at full size, "
        "decoded when there is one to cut: worth it where most images have none. Moves detections a little.",
        examples=["reduced"],
    )
    timeout_ms: int | None = Field(
        None,
        ge=1,
        le=86_400_000,
        description="Time limit of this step, in milliseconds; null: the request's deadline.",
        examples=[500],
    )
    on_error: Literal["fail", "skip"] | None = Field(
        None,
        description="`fail`: a failure of this step fails the request. `skip`: the request continues without it. null: "
        "`fail` for a step without dependencies, `skip` for others.",
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
        # a key that is given in both places stays in `serve`, where it is an unknown key
        moved = {key: serve.pop(key) for key in _MOVED if key in serve and key not in data}
        return {**data, **moved, "serve": serve}

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, value: str) -> str:
        if value in RESERVED_NAMES:
            mistake(f"{value!r} is reserved; choose another name")
        return value

    @field_validator("depends_on")
    @classmethod
    def _other_steps_once(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        repeated = sorted({name for name in value if value.count(name) > 1})
        if repeated:
            mistake(f"{repeated[0]!r} is listed twice; keep one")
        if info.data.get("name") in value:
            mistake("a step cannot depend on itself; remove its own name")
        return value

    def to_dict(self) -> dict[str, Any]:
        """The step as in a file, without defaults. Plain JSON values."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if self.crops_given:
            data["crops"] = self.crops
        return data


class PipelineConfig(Closed):
    """A pipeline file: classifiers, and when each of them runs."""

    model_config = ConfigDict(
        strict=True, json_schema_extra={"patternProperties": {"^x-": {"description": "Ignored; for anchors."}}}
    )

    name: str = Field(
        "pipeline",
        min_length=1,
        max_length=100,
        description="Name in results and of the Serve application; by default the file's name without its ending.",
        examples=["demo"],
    )
    pipeline: Annotated[tuple[StepConfig, ...], Field(strict=False)] = Field(
        min_length=1,
        description="The steps. Their order is that of the results; `depends_on` decides what runs when.",
        examples=[[{"name": "object_detection", "class": "classifiers.objects.ObjectClassifier"}]],
    )
    limits: ImageLimits = Field(
        default_factory=ImageLimits, description="Which images are accepted.", examples=[{"max_bytes": 33554432}]
    )

    def to_dict(self) -> dict[str, Any]:
        """The pipeline as a mapping for :func:`graph.load`, without defaults. Plain JSON values."""
        data = self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"pipeline"})
        return {**data, "name": self.name, "pipeline": [step.to_dict() for step in self.pipeline]}


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the pipeline file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **PipelineConfig.model_json_schema(by_alias=True),
    }
