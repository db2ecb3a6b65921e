"""The Serve application: ``import_path: serve_app.app:build`` in a Serve config file."""

# No `from __future__ import annotations` here: Serve reads the builder's annotation at run time, and a string would
# silently give it
# a plain dict.
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field
from ray import serve
from ray.serve import Application, Deployment

from classifiers import SetupError
from classifiers.validation import Closed
from graph import load_plan
from graph.pipeline_file import structure, tunables
from serve_app.config import GatewayConfig, IntakeConfig, read_gateway_config, read_intake_config
from serve_app.deployments import (
    GATEWAY,
    OPEN_GATEWAY,
    WORKER,
    Gateway,
    StepDeployment,
    Worker,
    awaited_hosts,
    gateway_options,
    step_options,
    worker_options,
)

__all__ = [
    "AppArgs",
    "GatewayConfig",
    "IntakeConfig",
    "build",
]


def _gateway(block: object) -> object:
    """The block, or the file that it names, with every mistake in words."""
    if not isinstance(block, (str, dict)):
        return block
    try:
        return read_gateway_config(block)
    except SetupError as error:
        raise ValueError(str(error)) from error


def _intake(block: object) -> object:
    """The same for the other block."""
    if not isinstance(block, (str, dict)):
        return block
    try:
        return read_intake_config(block)
    except SetupError as error:
        raise ValueError(str(error)) from error


class AppArgs(Closed):
    """``args`` of the application in a Serve config file."""

    pipeline: str | dict[str, Any] = Field(description="A pipeline file's path, or the same inline")
    gateway: Annotated[GatewayConfig, BeforeValidator(_gateway)] = Field(
        OPEN_GATEWAY,
        description="The HTTP entry, or a file that has it: at least 'auth'. No block: no authentication",
    )
    intake: Annotated[IntakeConfig | None, BeforeValidator(_intake)] = Field(
        None,
        description="Images from a queue, or a file that has it: at least 'queue' and 'results'. No block: no workers, "
        "and no jobs over HTTP",
    )


def build(args: AppArgs) -> Application:
    """Build the application: one deployment per step, named after it, unless it shares a process, the gateway in front,
    and the workers where there is a queue.

    Raises:
        PipelineError: the pipeline has mistakes.
    """
    plan = load_plan(args.pipeline)
    fixed, changeable = structure(plan.config), tunables(plan.config)
    awaited, deadline_s = awaited_hosts(plan, args.gateway.autoscaling), args.gateway.timeout_ms / 1000
    steps = {
        name: _deployment(StepDeployment)
        .options(name=name, user_config=changeable, **step_options(plan, name))
        .bind(fixed, name, awaited, deadline_s)
        for name in plan.hosts
    }
    entry = _deployment(Gateway).options(name=GATEWAY, user_config=changeable, **gateway_options(plan, args.gateway))
    if args.intake is None:
        return entry.bind(fixed, args.gateway, steps)
    workers = (
        _deployment(Worker)
        .options(name=WORKER, user_config=changeable, **worker_options(plan, args.intake))
        .bind(fixed, args.intake, args.gateway.fetch, steps, deadline_s)
    )
    # The gateway calls no worker: Serve deploys what the ingress is bound to.
    return entry.bind(fixed, args.gateway, steps, args.intake, workers)


def _deployment(cls: type[Any]) -> Deployment:
    return cast("Deployment", serve.deployment(cls))  # its own annotation does not tell its two forms apart
