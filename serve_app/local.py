"""Serves one pipeline on this machine, from start to a clean end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers import SetupError
from classifiers.catalogue import CATALOGUE
from graph import Plan, PlannedStep, load_plan
from graph.config import INGRESS
from serve_app.cluster import LOGGING, local_cluster
from serve_app.fetching import required_models
from serve_app.gateway_config import GatewayConfig
from serve_app.intake_config import IntakeConfig
from serve_app.ray_internals import application_states

__all__ = ["LocalServer", "serving"]

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class LocalServer:
    """Where a served pipeline answers.

    Attributes:
        http_url: base of the routes, for example ``http://127.0.0.1:8000``.
        dashboard_url: the Ray dashboard; ``None``: there is none.
        token_file: has the token that the dashboard asks for; ``None``: it asks for none, or the environment has it.
    """

    http_url: str
    dashboard_url: str | None
    token_file: Path | None


@contextmanager
def serving(
    pipeline: str,
    *,
    port: int,
    dashboard_port: int | None,
    gateway: GatewayConfig | None = None,
    intake: IntakeConfig | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[LocalServer]:
    """Start Ray and Serve, deploy the pipeline, and stop everything when the block ends.

    Args:
        pipeline: the file.
        port: of the HTTP endpoint, on loopback.
        dashboard_port: of the Ray dashboard, on loopback; ``None``: none, which starts sooner.
        gateway: who may come in, and how much; without it everybody on this machine.
        intake: where jobs come from, and their results go; without it there are none.
        report: called with the name of each phase when it begins.

    Raises:
        PipelineError: the file has mistakes.
        SetupError: a model cannot be loaded, or a port is taken.
    """
    report("looking at the pipeline and its models")
    plan = load_plan(pipeline)
    # auth is off in so many words: the endpoint is bound to loopback
    gateway = gateway or GatewayConfig.model_validate({"auth": "none"})
    _need_models(plan, pipeline)  # before anything is started
    report("starting Ray and Serve on this machine")
    with local_cluster(
        http_port=port, dashboard_port=dashboard_port, min_cpus=_cpus(plan, gateway, intake), num_gpus=_gpus(plan)
    ) as ray:
        report("loading the models")
        _deploy(pipeline, plan.name, gateway, intake)
        yield LocalServer(ray.http_url, ray.dashboard_url, ray.token_file)


def _need_models(plan: Plan, pipeline: str) -> None:
    """Those that a classifier does not fetch by itself."""
    missing = [m for m in required_models(plan) if m.state != "there" and m.ref in CATALOGUE]
    if missing:
        found = "\n".join(f"model '{m.ref}' for {', '.join(m.steps)} is {m.state}" for m in missing)
        raise SetupError(f"{found}\nget it with: visiongraph models {pipeline} --download")


def _cpus(plan: Plan, gateway: GatewayConfig, intake: IntakeConfig | None) -> int:
    """Logical CPUs for every replica that the pipeline may have, twice: an update starts new ones beside the old."""
    entry = gateway.shares * (gateway.num_cpus + _reserved(plan, INGRESS))
    steps = sum(_most_replicas(plan[name]) * _reserved(plan, name) for name in plan.hosts)
    workers = 0.0 if intake is None else intake.most_replicas * (intake.num_cpus + _reserved(plan, INGRESS))
    return math.ceil(2 * (1 + entry + steps + workers))


def _reserved(plan: Plan, host: str) -> float:
    return sum(step.serve.num_cpus for step in plan.hosted_by(host))


def _most_replicas(step: PlannedStep) -> int:
    scaling = step.serve.autoscaling
    return scaling.max_replicas if scaling is not None else step.serve.num_replicas or 1


def _gpus(plan: Plan) -> int | None:
    """As many as Ray finds; none where no step wants one, so that a pipeline for the CPU starts anywhere."""
    return None if any(step.serve.num_gpus for step in plan) else 0


def _deploy(pipeline: str, name: str, gateway: GatewayConfig, intake: IntakeConfig | None) -> None:
    from ray import serve

    from serve_app.app import AppArgs, build

    args = AppArgs(pipeline=pipeline, gateway=gateway, intake=intake)
    target = serve.RunTarget(build(args), name, logging_config=dict(LOGGING))
    serve.run_many([target], wait_for_applications_running=False)
    while True:
        state = application_states().get(name)
        if state == "RUNNING":
            return
        if state == "DEPLOY_FAILED":
            raise SetupError(_why(serve.status().applications[name]))
        time.sleep(_POLL_S)


def _why(application: Any) -> str:
    messages = [f"{name}: {d.message}" for name, d in application.deployments.items() if d.status == "DEPLOY_FAILED"]
    return "\n".join(["the pipeline cannot be served:", *(messages or [application.message])])
