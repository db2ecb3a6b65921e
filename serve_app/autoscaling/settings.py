"""The settings of autoscaling, and the options of Ray Serve that they become."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from classifiers.validation import Closed
from graph.pipeline_file import AutoscalingConfig

__all__ = ["BacklogAutoscaling", "entry_replicas", "step_replicas", "worker_replicas"]

# Replicas record their numbers as often as they send them; Serve's own defaults, 10 s and a mean over 30, are too slow
# for a burst. Its environment variables for this are not read in 2.60.
_METRICS = {"metrics_interval_s": 2.0, "look_back_period_s": 10.0}
# The policies have delays of their own, which look at the whole time and not at its last moment.
_NO_DELAYS = {"upscale_delay_s": 0.0, "downscale_delay_s": 0.0}


class BacklogAutoscaling(Closed):
    """The number of workers follows the backlog of the queue, between these bounds."""

    min_replicas: int = Field(1, ge=0, description="Fewest workers; 0: none while the queue is empty")
    max_replicas: int = Field(ge=1, description="Most workers")
    drain_s: float = Field(60, gt=0, description="Time to work off a backlog; less means more workers for a burst")
    images_per_s: float = Field(10, gt=0, description="Assumed rate of one worker until it is measured")
    downscale_delay_s: float = Field(300, ge=0, description="How long fewer must suffice before workers are removed")

    @model_validator(mode="after")
    def _at_most_not_below_at_least(self) -> BacklogAutoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas ({self.max_replicas}) must be at least min_replicas ({self.min_replicas})")
        return self


def worker_replicas(num_replicas: int | None, scaling: BacklogAutoscaling | None, queue_url: str) -> dict[str, Any]:
    """Serve's options for the number of workers: fixed, or by the backlog of the queue.

    Args:
        num_replicas: the number; ``None``: one.
        scaling: instead of a number.
        queue_url: the queue as the Serve controller can reach it; a path in it must be absolute.
    """
    if scaling is None:
        return {"num_replicas": num_replicas or 1}
    settings = scaling.model_dump(include={"drain_s", "images_per_s", "downscale_delay_s"})
    return _by_policy("BacklogPolicy", scaling, queue_url=queue_url, **settings)


def step_replicas(num_replicas: int | None, scaling: AutoscalingConfig | None, max_batch_size: int) -> dict[str, Any]:
    """Serve's options for the number of replicas of a step: fixed, or by the crops or, with
    ``target_ongoing_requests``, the requests in progress, as its callers count them. Serve itself would count groups of
    them, and only those that were sent."""
    if scaling is None:
        return {"num_replicas": num_replicas or 1}
    target = scaling.target_ongoing_requests or scaling.target_ongoing_crops or float(max_batch_size)
    delays = scaling.model_dump(include={"upscale_delay_s", "downscale_delay_s"})
    return _by_policy("StepPolicy", scaling, crops_per_replica=target, **delays)


def _by_policy(name: str, scaling: AutoscalingConfig | BacklogAutoscaling, **kwargs: Any) -> dict[str, Any]:
    bounds = scaling.model_dump(exclude_none=True, include={"min_replicas", "max_replicas", "initial_replicas"})
    policy = {"policy_function": f"serve_app.autoscaling.policies:{name}", "policy_kwargs": kwargs}
    return {"autoscaling_config": {**bounds, **_METRICS, **_NO_DELAYS, "policy": policy}}


def entry_replicas(num_replicas: int | None, scaling: AutoscalingConfig | None, target: float) -> dict[str, Any]:
    """Serve's options for the number of replicas of a deployment whose load is requests; ``target``: the default of
    ongoing requests per replica."""
    if scaling is None:
        return {"num_replicas": num_replicas or 1}
    given = scaling.model_dump(exclude_none=True, exclude={"target_ongoing_crops"})
    return {"autoscaling_config": {"target_ongoing_requests": target, **given}}
