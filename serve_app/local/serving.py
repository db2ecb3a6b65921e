"""Serves one pipeline on this machine, from start to a clean end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from classifiers import SetupError, VisionError
from classifiers.weights import CATALOGUE
from graph import Plan, PlannedStep, load_plan
from graph.pipeline_file import INGRESS
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.local.cluster import LOGGING, local_cluster
from serve_app.local.model_downloads import required_models
from serve_app.ray_internals import application_states

__all__ = ["LocalServer", "NotEnoughResources", "serving"]

_POLL_S = 0.2


class NotEnoughResources(VisionError):
    """This machine lacks something that the pipeline's steps reserve: nothing is wrong with the file."""


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
        gateway: authentication and limits; without it everybody on this machine is allowed.
        intake: where jobs come from, and their results go; without it there are none.
        report: called with the name of each phase when it begins.

    Raises:
        PipelineError: the file has mistakes.
        SetupError: a model cannot be loaded, or a port is taken.
        NotEnoughResources: this machine lacks something that the steps reserve.
    """
    report("looking at the pipeline and its models")
    plan = load_plan(pipeline)
    # auth is off in so many words: the endpoint is bound to loopback
    gateway = (gateway or GatewayConfig.model_validate({"auth": "none"})).bound_to("127.0.0.1")
    _need_models(plan, pipeline)  # before anything is started
    report("starting Ray and Serve on this machine")
    with local_cluster(
        http_port=port, dashboard_port=dashboard_port, min_cpus=_cpus(plan, gateway, intake), num_gpus=_gpus(plan)
    ) as ray:
        _require_resources(plan, gateway, intake)
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


def _require_resources(plan: Plan, gateway: GatewayConfig, intake: IntakeConfig | None) -> None:
    """
    Raises:
        NotEnoughResources: not every deployment has room for its least number of replicas; Serve would wait forever.
    """
    import ray

    from serve_app.deployments.options import GATEWAY, WORKER, gateway_options, step_options, worker_options

    options = {name: step_options(plan, name) for name in plan.hosts}
    options[GATEWAY] = gateway_options(plan, gateway)
    if intake is not None:
        options[WORKER] = worker_options(plan, intake)
    wanted: dict[str, dict[str, list[float]]] = {}
    for name, option in options.items():
        for resource, amount in _amounts(option["ray_actor_options"]).items():
            wanted.setdefault(resource, {})[name] = [amount] * _least_replicas(option)
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    lacking = [
        f"{_quantity(resource, sum(map(sum, by_name.values())))} for {_for_whom(resource, by_name)}; "
        f"this machine has {_quantity(resource, has.get(resource, 0))}"
        for resource, by_name in wanted.items()
        if not _fits(resource, [each for amounts in by_name.values() for each in amounts], has.get(resource, 0))
    ]
    if lacking:
        found = "\n".join(f"the pipeline needs {lack}" for lack in lacking)
        raise NotEnoughResources(
            f"{found}\nchange what the steps reserve in their serve: blocks, or use a machine that has it"
        )


def _amounts(reserved: Mapping[str, Any]) -> dict[str, float]:
    """What a replica reserves, by Ray's names; without CPUs, of which as many are handed out as are needed."""
    named = {"GPU": reserved["num_gpus"], "memory": reserved.get("memory", 0), **reserved.get("resources", {})}
    return {resource: amount for resource, amount in named.items() if amount}


def _least_replicas(options: Mapping[str, Any]) -> int:
    # one of those that may go away comes back with the first request
    least: int = options.get("num_replicas") or options["autoscaling_config"].get("min_replicas", 1)
    return max(1, least)


def _fits(resource: str, amounts: list[float], available: float) -> bool:
    if resource != "GPU":
        return sum(amounts) <= available
    # a share of a GPU cannot be of two
    gpus = [1.0] * int(available)
    for amount in sorted(amounts, reverse=True):
        if amount > 1:
            if amount > gpus.count(1.0):
                return False
            gpus = sorted(gpus)[: len(gpus) - math.ceil(amount)]
            continue
        index = next((i for i, left in enumerate(gpus) if left >= amount - 1e-6), None)
        if index is None:
            return False
        gpus[index] -= amount
    return True


def _for_whom(resource: str, by_name: Mapping[str, list[float]]) -> str:
    return ", ".join(
        f"{name} ({f'{len(amounts)} x ' if len(amounts) > 1 else ''}{_quantity(resource, amounts[0])})"
        for name, amounts in by_name.items()
    )


def _quantity(resource: str, amount: float) -> str:
    if resource == "memory":
        return f"{int(amount / 2**20)} MiB of memory"
    return f"{amount:g} {resource}"


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
