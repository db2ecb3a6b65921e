"""The Serve application: ``import_path: serve_app.app:build`` in a Serve config file."""

# No `from __future__ import annotations` here: Serve reads the builder's annotation at run time, and a string would
# silently give it a plain dict.
from collections.abc import Callable
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, Field
from ray import serve
from ray.serve import Application, Deployment

from classifiers import SetupError
from classifiers.validation import Closed
from graph import load_plan
from graph.pipeline_file import structure, tunables
from serve_app.config import GatewayConfig, IntakeConfig, read_gateway_config, read_intake_config
from serve_app.deployments import GATEWAY, OPEN_GATEWAY, WORKER, deployment_options
from serve_app.deployments.gateway import Gateway
from serve_app.deployments.rollout import awaited_hosts
from serve_app.deployments.step import StepDeployment
from serve_app.deployments.worker import Worker

__all__ = ["AppArgs", "build"]


def _read_by(read: Callable[[Any], BaseModel]) -> BeforeValidator:
    """Takes a block, or the name of the file that has it, and reports all errors in it."""

    def validate(block: object) -> object:
        if not isinstance(block, str | dict):
            return block
        try:
            return read(block)
        except SetupError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(validate)


class AppArgs(Closed):
    """``args`` of the application in a Serve config file."""

    pipeline: str | dict[str, Any] = Field(description="A pipeline file's path, or the same inline")
    gateway: Annotated[GatewayConfig, _read_by(read_gateway_config)] = Field(
        OPEN_GATEWAY, description="The HTTP entry, or a file that has it: at least 'auth'. No block: no authentication"
    )
    intake: Annotated[IntakeConfig | None, _read_by(read_intake_config)] = Field(
        None,
        description="Images from a queue, or a file that has it: at least 'queue' and 'results'. No block: no workers, "
        "and no jobs over HTTP",
    )


def build(args: AppArgs) -> Application:
    """Build the application: one deployment per step, named after it, unless it shares a process, the gateway in front,
    and the workers where there is a queue.

    Raises:
        PipelineError: the pipeline has errors.
    """
    plan = load_plan(args.pipeline)
    fixed, changeable = structure(plan.config), tunables(plan.config)
    awaited, deadline_s = awaited_hosts(plan, args.gateway.autoscaling), args.gateway.timeout_ms / 1000
    options = deployment_options(plan, args.gateway, args.intake)

    def deployment(name: str, cls: type[Any]) -> Deployment:
        made = cast("Deployment", serve.deployment(cls))  # its annotation does not distinguish its two forms
        return made.options(name=name, user_config=changeable, **options[name])

    steps = {name: deployment(name, StepDeployment).bind(fixed, name, awaited, deadline_s) for name in plan.hosts}
    entry = deployment(GATEWAY, Gateway)
    if args.intake is None:
        return entry.bind(fixed, args.gateway, steps)
    workers = deployment(WORKER, Worker).bind(fixed, args.intake, args.gateway.fetch, steps, deadline_s)
    # The gateway calls no worker: Serve deploys what the ingress is bound to.
    return entry.bind(fixed, args.gateway, steps, args.intake, workers)
