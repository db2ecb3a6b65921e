"""What may be set about autoscaling, and what Ray Serve is told of it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from classifiers.validation import Closed
from graph.pipeline_file import AutoscalingConfig

__all__ = ["BacklogAutoscaling", "entry_replicas", "step_replicas", "worker_replicas"]

_POLICIES = "serve_app.autoscaling.policies"
# Replicas note their numbers as often as they send them; Serve's own defaults, 10 s and a mean over 30, are too slow
# for a burst. Its environment variables for this are read by nobody in 2.60.
_METRICS = {"metrics_interval_s": 2.0, "look_back_period_s": 10.0}
# The policies have delays of their own, which look at the whole time and not at its last moment.
_NO_DELAYS = {"upscale_delay_s": 0.0, "downscale_delay_s": 0.0}


class BacklogAutoscaling(Closed):
    """Between how many workers the intake moves with the backlog of its queue."""

    min_replicas: int = Field(1, ge=0, description="Fewest workers; 0 lets them all go while the queue is empty")
    max_replicas: int = Field(ge=1, description="Most workers")
    drain_s: float = Field(
        60, gt=0, description="Seconds in which a backlog should be gone; less means more workers for a burst"
    )
    images_per_s: float = Field(
        10, gt=0, description="What one worker is thought to do until it is measured: only the first burst goes by it"
    )
    downscale_delay_s: float = Field(
        300,
        ge=0,
        description="Workers that were needed within so many seconds stay: what keeps the number from flapping",
    )

    @model_validator(mode="after")
    def _at_most_not_below_at_least(self) -> BacklogAutoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})")
        return self


def worker_replicas(num_replicas: int | None, scaling: BacklogAutoscaling | None, queue_url: str) -> dict[str, Any]:
    """How many replicas the workers' deployment has, as Serve's options: a number, or by the backlog of the queue.

    Args:
        num_replicas: the number; ``None``: one.
        scaling: instead of a number.
        queue_url: the queue as the Serve controller can reach it: a path in it must be absolute.
    """
    if scaling is None:
        return {"num_replicas": num_replicas or 1}
    bounds = scaling.model_dump(include={"min_replicas", "max_replicas"})
    policy = {
        "policy_function": f"{_POLICIES}:BacklogPolicy",
        "policy_kwargs": {
            "queue_url": queue_url,
            **scaling.model_dump(include={"drain_s", "images_per_s", "downscale_delay_s"}),
        },
    }
    return {"autoscaling_config": {**bounds, **_METRICS, **_NO_DELAYS, "policy": policy}}


def step_replicas(num_replicas: int | None, scaling: AutoscalingConfig | None, max_batch_size: int) -> dict[str, Any]:
    """How many replicas a step's deployment has, as Serve's options: a number; by the crops that are under way for it,
    as its callers count them; or, with ``target_ongoing_requests``, by requests, as Serve itself does."""
    if scaling is None or scaling.target_ongoing_requests is not None:
        return entry_replicas(num_replicas, scaling, max_batch_size)
    bounds = scaling.model_dump(exclude_none=True, include={"min_replicas", "max_replicas", "initial_replicas"})
    policy = {
        "policy_function": f"{_POLICIES}:StepPolicy",
        "policy_kwargs": {
            "crops_per_replica": scaling.target_ongoing_crops or float(max_batch_size),
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
        },
    }
    return {"autoscaling_config": {**bounds, **_METRICS, **_NO_DELAYS, "policy": policy}}


def entry_replicas(num_replicas: int | None, scaling: AutoscalingConfig | None, target: float) -> dict[str, Any]:
    """How many replicas a deployment has whose load is requests, as Serve's options; ``target``: requests under way
    that one should have, where the configuration does not say it."""
    if scaling is None:
        return {"num_replicas": num_replicas or 1}
    given = scaling.model_dump(exclude_none=True, exclude={"target_ongoing_crops"})
    return {"autoscaling_config": {"target_ongoing_requests": target, **given}}
