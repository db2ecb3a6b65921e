"""The Serve application: ``import_path: serve_app.app:build`` in a Serve config file."""

# No `from __future__ import annotations` here: Serve reads the builder's annotation at run time, and a string would
# silently give it
# a plain dict.
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from ray import serve
from ray.serve import Application, Deployment

from classifiers import SetupError
from graph import PlannedStep, load_plan
from graph.config import AutoscalingConfig, structure, tunables
from serve_app.deployments import StepDeployment
from serve_app.gateway import Gateway
from serve_app.gateway_config import GatewayConfig, read_gateway_config

__all__ = ["GATEWAY", "OPEN_GATEWAY", "AppArgs", "GatewayConfig", "build", "gateway_options", "step_options"]

GATEWAY = "gateway"
"""Name of the ingress deployment; no step can have it."""

_SURGE_PERCENT = 100
"""During a rolling update each new replica starts before an old one stops, so that a step with one replica has no
gap."""


OPEN_GATEWAY = read_gateway_config({"auth": "none"})
"""Lets everybody in."""

_UNBOUNDED = -1
"""Serve's own word for a queue without a bound."""


def _gateway(block: object) -> object:
    """The block, or the file that it names, with every mistake in words."""
    if not isinstance(block, (str, dict)):
        return block
    try:
        return read_gateway_config(block)
    except SetupError as error:
        raise ValueError(str(error)) from error


class AppArgs(BaseModel):
    """``args`` of the application in a Serve config file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str | dict[str, Any] = Field(description="A pipeline file's path, or the same inline")
    gateway: Annotated[GatewayConfig, BeforeValidator(_gateway)] = Field(
        OPEN_GATEWAY,
        description="The HTTP entry, or a file that has it: at least 'auth', who may come in. No block: everybody",
    )


def build(args: AppArgs) -> Application:
    """Build the application: a deployment a step, named after it, and the gateway in front.

    Raises:
        PipelineError: the pipeline has mistakes.
    """
    plan = load_plan(args.pipeline)
    fixed, changeable = structure(plan.config), tunables(plan.config)
    steps = {
        step.name: _deployment(StepDeployment)
        .options(name=step.name, user_config=changeable, **step_options(step))
        .bind(fixed, step.name)
        for step in plan
    }
    entry = _deployment(Gateway).options(name=GATEWAY, user_config=changeable, **gateway_options(args.gateway))
    return entry.bind(fixed, args.gateway, steps)


def step_options(step: PlannedStep) -> dict[str, Any]:
    """The Serve options of a step's deployment, but its name and ``user_config``."""
    options = step.serve
    actor: dict[str, Any] = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
    if options.memory_mb is not None:
        actor["memory"] = options.memory_mb * 2**20
    if options.resources:
        actor["resources"] = dict(options.resources)
    return {
        "ray_actor_options": actor,
        "max_ongoing_requests": options.ongoing_requests,
        "max_queued_requests": options.max_queued_requests or _UNBOUNDED,
        "max_surge_percent": _SURGE_PERCENT,
        **_scale(options.num_replicas, options.autoscaling, options.max_batch_size),
    }


def gateway_options(config: GatewayConfig) -> dict[str, Any]:
    """The Serve options of the gateway's deployment, but its name and ``user_config``."""
    return {
        "ray_actor_options": {"num_cpus": config.num_cpus},
        "max_ongoing_requests": config.max_ongoing_requests,
        "max_queued_requests": config.max_queued_requests or _UNBOUNDED,
        "max_surge_percent": _SURGE_PERCENT,
        **_scale(config.num_replicas, config.autoscaling, config.max_ongoing_requests // 2),
    }


def _deployment(cls: type[Any]) -> Deployment:
    return cast("Deployment", serve.deployment(cls))  # its own annotation does not tell its two forms apart


def _scale(num_replicas: int | None, autoscaling: AutoscalingConfig | None, target: int) -> dict[str, Any]:
    if autoscaling is None:
        return {"num_replicas": num_replicas or 1}
    return {"autoscaling_config": {"target_ongoing_requests": target, **autoscaling.model_dump(exclude_none=True)}}
