"""Serves one pipeline on this machine, from start to a clean end."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from classifiers import SetupError, VisionError
from graph import Plan
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.deployments import OPEN_GATEWAY, Demand, Room, demands, first_fit
from serve_app.local.cluster import LOGGING, LocalCluster, local_cluster
from serve_app.ray_internals import application_states, metrics_discovery_file
from serve_app.telemetry.exporting import ExportSettings, ray_announced

__all__ = ["NotEnoughResources", "serving"]

_POLL_S = 0.2

_log = logging.getLogger(__name__)


class NotEnoughResources(VisionError):
    """This machine lacks something that the pipeline's steps reserve: nothing is wrong with the file."""


@contextmanager
def serving(
    plan: Plan,
    *,
    port: int,
    dashboard_port: int | None,
    gateway: GatewayConfig = OPEN_GATEWAY,
    intake: IntakeConfig | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[LocalCluster]:
    """Start Ray and Serve, deploy a pipeline, and stop everything when the block ends.

    Args:
        port: of the HTTP endpoint, on loopback.
        dashboard_port: of the Ray dashboard, on loopback; ``None``: none, which starts sooner.
        gateway: authentication and limits; without it every client on this machine is allowed.
        intake: where jobs come from, and their results go; without it there are none.
        report: called with the name of each phase when it begins.

    Raises:
        SetupError: a model cannot be loaded, or a port is taken.
        NotEnoughResources: this machine lacks something that the steps reserve.
    """
    gateway = gateway.bound_to("127.0.0.1")
    wanted = demands(plan, gateway, intake)
    # logical CPUs for every replica that there may be, twice: an update starts new ones beside the old
    min_cpus = math.ceil(2 * (1 + sum(each.most * each.cpus for each in wanted)))
    # None: as many as Ray finds; none where no step wants one, so that a pipeline for the CPU starts anywhere
    gpus = None if any(step.serve.num_gpus for step in plan) else 0
    report("starting Ray and Serve on this machine")
    with local_cluster(http_port=port, dashboard_port=dashboard_port, min_cpus=min_cpus, num_gpus=gpus) as cluster:
        _require_resources(wanted)
        with _metrics_announced():
            report("loading the models")
            _deploy(plan, gateway, intake)
            yield cluster


@contextmanager
def _metrics_announced() -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(ray_announced(ExportSettings.from_environment().folder, metrics_discovery_file()))
        except SetupError as error:  # as in the replicas: images are processed all the same
            _log.warning("%s", error)
        yield


def _require_resources(wanted: Iterable[Demand]) -> None:
    """
    Raises:
        NotEnoughResources: not every deployment has room for its least number of replicas; Serve would wait forever.
    """
    import ray

    reserved: defaultdict[str, dict[str, list[float]]] = defaultdict(dict)
    for each in wanted:
        # no CPUs: Ray gets as many logical ones as are needed. One replica even of a deployment that is scaled to zero.
        for resource, amount in {"GPU": each.gpus, "memory": each.memory_bytes, **each.resources}.items():
            if amount:
                reserved[resource][each.name] = [amount] * max(1, each.least)
    has: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    lacking = []
    for resource, by_name in reserved.items():
        amounts, available = [amount for each in by_name.values() for amount in each], has.get(resource, 0)
        if not _fits(resource, amounts, available):
            deployments = ", ".join(
                f"{name} ({f'{len(each)} x ' if len(each) > 1 else ''}{_quantity(resource, each[0])})"
                for name, each in by_name.items()
            )
            lacking.append(
                f"the pipeline needs {_quantity(resource, sum(amounts))} for {deployments}; "
                f"this machine has {_quantity(resource, available)}"
            )
    if lacking:
        fix = "change what the steps reserve in their serve: blocks, or use a machine that has it"
        raise NotEnoughResources("\n".join([*lacking, fix]))


def _fits(resource: str, amounts: Sequence[float], available: float) -> bool:
    if resource != "GPU":
        return sum(amounts) <= available
    # a share of a GPU is a share of one GPU
    shares = [share for amount in amounts for share in ([1.0] * math.ceil(amount) if amount > 1 else [amount])]
    gpus = [Room(0, 1.0, 0) for _ in range(int(available))]
    return not first_fit([Demand("", 0, share, 0, {}, 1, 1) for share in shares], gpus)


def _quantity(resource: str, amount: float) -> str:
    return f"{int(amount / 2**20)} MiB of memory" if resource == "memory" else f"{amount:g} {resource}"


def _deploy(plan: Plan, gateway: GatewayConfig, intake: IntakeConfig | None) -> None:
    from ray import serve

    from serve_app.app import AppArgs, build

    args = AppArgs(pipeline=plan.config.to_dict(), gateway=gateway, intake=intake)
    target = serve.RunTarget(build(args), plan.name, logging_config=dict(LOGGING))
    serve.run_many([target], wait_for_applications_running=False)
    while (state := application_states().get(plan.name)) != "RUNNING":
        if state == "DEPLOY_FAILED":
            found = serve.status().applications[plan.name]
            failed = [f"{key}: {d.message}" for key, d in found.deployments.items() if d.status == "DEPLOY_FAILED"]
            raise SetupError("\n".join(["the pipeline cannot be served:", *(failed or [found.message])]))
        time.sleep(_POLL_S)
