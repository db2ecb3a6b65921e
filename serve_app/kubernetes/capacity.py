"""Which pods the pipeline needs: what each deployment reserves, and how many pods that fills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from graph import Plan
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.deployments import GATEWAY, deployment_options
from serve_app.kubernetes.target import GIB_PER_CPU, Target

__all__ = ["Demand", "WorkerGroup", "demands", "worker_groups"]

_SURGE = 2
"""An update starts each new replica before it stops the old one."""


@dataclass(frozen=True)
class Demand:
    """What one replica of a deployment reserves, and how many replicas there may be."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int
    resources: tuple[str, ...]
    least: int
    most: int


@dataclass(frozen=True)
class WorkerGroup:
    """Pods of one size."""

    name: str
    cpus: int
    gpus: int
    min_pods: int
    max_pods: int

    @property
    def memory_gib(self) -> int:
        """Memory of a pod."""
        return GIB_PER_CPU * self.cpus


def demands(plan: Plan, gateway: GatewayConfig, intake: IntakeConfig | None) -> list[Demand]:
    """What each deployment of the application reserves."""
    options = deployment_options(plan, gateway, intake)
    return [_demand(name, option) for name, option in options.items()]


def worker_groups(wanted: Iterable[Demand], target: Target) -> list[WorkerGroup]:
    """CPU pods for what reserves no GPU, GPU pods for the rest; as many as the least replicas fill, up to what twice
    the most replicas fill."""
    wanted = list(wanted)
    kinds = (
        ("cpu", 0, [each for each in wanted if not each.gpus]),
        ("gpu", target.worker_gpus, [each for each in wanted if each.gpus]),
    )
    groups = []
    for name, gpus, members in kinds:
        if not members:
            continue
        empty = WorkerGroup(name, target.worker_cpus, gpus, 0, 0)
        least = _pods([each for each in members for _ in range(each.least)], empty)
        most = _pods([each for each in members for _ in range(_SURGE * each.most)], empty)
        # two replicas of the gateway are meant to survive the loss of a pod
        spread = min(2, max((each.least for each in members if each.name == GATEWAY), default=0))
        min_pods = max(least, spread)
        groups.append(WorkerGroup(name, target.worker_cpus, gpus, min_pods, max(most, min_pods, 1)))
    return groups


def _demand(name: str, options: dict[str, Any]) -> Demand:
    reserved, scaling = options["ray_actor_options"], options.get("autoscaling_config", {})
    return Demand(
        name,
        cpus=reserved["num_cpus"],
        gpus=reserved["num_gpus"],
        memory_bytes=reserved.get("memory", 0),
        resources=tuple(reserved.get("resources", ())),
        least=options.get("num_replicas") or scaling.get("min_replicas", 1),
        most=options.get("num_replicas") or scaling["max_replicas"],
    )


def _pods(replicas: Sequence[Demand], size: WorkerGroup) -> int:
    """How many pods these replicas fill: each goes to the first pod with room, the largest first."""
    room: list[list[float]] = []
    for replica in sorted(replicas, key=lambda each: (each.gpus, each.memory_bytes, each.cpus), reverse=True):
        need = (replica.cpus, replica.gpus, float(replica.memory_bytes))
        pod = next((pod for pod in room if all(n <= r + 1e-6 for n, r in zip(need, pod, strict=True))), None)
        if pod is None:
            pod = [float(size.cpus), float(size.gpus), float(size.memory_gib * 2**30)]
            room.append(pod)
        pod[:] = [r - n for n, r in zip(need, pod, strict=True)]
    return len(room)
