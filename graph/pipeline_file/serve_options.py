"""The keys of the block ``serve`` of a step."""

from __future__ import annotations

import math
from typing import Any

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from classifiers.validation import Closed, mistake

__all__ = ["INGRESS", "AutoscalingConfig", "ServeConfig"]

INGRESS = "ingress"
"""The name in `colocate_with` of the process that accepts requests; no step can have it."""


class AutoscalingConfig(Closed, strict=True):
    """How the number of replicas follows the load."""

    min_replicas: int = Field(1, ge=0, description="Fewest replicas; 0: an idle step has none.", examples=[1])
    max_replicas: int = Field(ge=1, description="Most replicas.", examples=[4])
    initial_replicas: int | None = Field(
        None, ge=0, description="Replicas at the start; null: `min_replicas`.", examples=[1]
    )
    target_ongoing_crops: float | None = Field(
        None,
        gt=0,
        description="Crops in progress per replica, waiting ones included; null: one batch, `max_batch_size`.",
        examples=[8],
    )
    target_ongoing_requests: float | None = Field(
        None,
        gt=0,
        description="Requests in progress per replica. The load is then counted in requests, however many crops "
        "each has.",
        examples=[8],
    )
    upscale_delay_s: float = Field(
        2, ge=0, description="Seconds that the load must stay high before replicas are added.", examples=[2]
    )
    downscale_delay_s: float = Field(
        600, ge=0, description="Seconds that the load must stay low before replicas are removed.", examples=[600]
    )

    @field_validator("target_ongoing_requests")
    @classmethod
    def _one_measure(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("target_ongoing_crops") is not None:
            mistake("cannot be combined with `target_ongoing_crops`; keep one of them")
        return value

    @field_validator("max_replicas")
    @classmethod
    def _not_below_the_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_replicas")
        if least is not None and value < least:
            mistake(f"must be at least min_replicas, which is {least}; got {value}")
        return value

    @field_validator("initial_replicas")
    @classmethod
    def _between_least_and_most(cls, value: int | None, info: ValidationInfo) -> int | None:
        least, most = info.data.get("min_replicas"), info.data.get("max_replicas")
        if value is not None and least is not None and most is not None and not least <= value <= most:
            mistake(f"must be between min_replicas ({least}) and max_replicas ({most}); got {value}")
        return value


def _with_moved_keys(schema: dict[str, Any]) -> None:
    """Let editors complete the keys in ``serve`` that StepConfig moves out of it."""
    better = "The same as beside `serve`, which is the preferred place."
    schema["properties"] |= {
        "timeout_ms": {"type": ["integer", "null"], "minimum": 1, "description": better},
        "on_error": {"enum": ["fail", "skip", None], "description": better},
    }


class ServeConfig(Closed):
    """How the step is deployed on Ray Serve. Without a cluster only `max_batch_size` applies."""

    model_config = ConfigDict(strict=True, json_schema_extra=_with_moved_keys)

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
    # 0, because a batch fills while the model is busy with the previous one, and at low load a wait only adds latency.
    # It can pay off where a batch costs little more than one image, as on a GPU.
    batch_wait_ms: float = Field(
        0, ge=0, description="Longest wait for a batch to fill once the model is free, in milliseconds.", examples=[2]
    )
    max_ongoing_requests: int | None = Field(
        None,
        ge=1,
        description="Requests that a replica works on at once; null: two batches, of which one runs and one fills.",
        examples=[16],
    )
    max_queued_requests: int | None = Field(
        None,
        ge=1,
        description="Requests that may wait at each caller before further ones are refused; null: no limit.",
        examples=[200],
    )
    colocate_with: str | None = Field(
        None,
        min_length=1,
        description="Run in another process instead of a deployment of its own: `ingress` for a step without "
        "dependencies, the name of a step that it depends on for others. Their reservations add up. The results are "
        "the same; null: a deployment of its own.",
        examples=[INGRESS],
    )

    @property
    def ongoing_requests(self) -> int:
        """``max_ongoing_requests``, or its default."""
        return self.max_ongoing_requests or 2 * self.max_batch_size

    @property
    def scales_to_zero(self) -> bool:
        """Whether the step may have no replica while it is idle."""
        return self.autoscaling is not None and self.autoscaling.min_replicas == 0

    @field_validator("num_gpus")
    @classmethod
    def _share_or_whole(cls, value: float) -> float:
        if value > 1 and value != int(value):
            fix = f"try {math.floor(value)} or {math.ceil(value)}"
            mistake(f"must be a share up to 1 or a whole number of GPUs; got {value:g}, {fix}")
        return value

    @field_validator("resources")
    @classmethod
    def _known_resources(cls, value: dict[str, float]) -> dict[str, float]:
        own_keys = {"cpu": "num_cpus", "gpu": "num_gpus", "memory": "memory_mb"}
        for name, amount in value.items():
            if name.lower() in own_keys:
                mistake(f"{name!r} has a key of its own: write `{own_keys[name.lower()]}`")
            if amount <= 0:
                mistake(f"{name!r} must be above 0; got {amount:g}")
        return value

    @field_validator("num_replicas")
    @classmethod
    def _one_way_to_scale(cls, value: int | None, info: ValidationInfo) -> int | None:
        has_autoscaling = info.data.get("autoscaling", "invalid") is not None
        if value is not None and has_autoscaling:
            mistake("cannot be combined with `autoscaling`; keep one of them")
        return value

    @field_validator("max_ongoing_requests")
    @classmethod
    def _room_for_a_batch(cls, value: int | None, info: ValidationInfo) -> int | None:
        batch = info.data.get("max_batch_size")
        if value is not None and batch is not None and value < batch:
            mistake(f"must be at least max_batch_size ({batch}), or no batch ever fills; got {value}, try {2 * batch}")
        return value
