"""Which pods the pipeline needs: how many the replicas of its deployments fill."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.deployments import GATEWAY, Demand, Room, first_fit
from serve_app.kubernetes.target import GIB_PER_CPU, Target

__all__ = ["WorkerGroup", "worker_groups"]

_SURGE = 2
"""An update starts each new replica before it stops the old one."""


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


def worker_groups(wanted: Iterable[Demand], target: Target) -> list[WorkerGroup]:
    """CPU pods for what reserves no GPU, GPU pods for the rest; as many as the least replicas fill, up to what twice
    the most replicas fill."""
    wanted = list(wanted)
    kinds = (
        ("cpu", 0, [each for each in wanted if not each.gpus]),
        ("gpu", target.worker_gpus, [each for each in wanted if each.gpus]),
    )
    return [_group(name, gpus, members, target) for name, gpus, members in kinds if members]


def _group(name: str, gpus: int, members: Sequence[Demand], target: Target) -> WorkerGroup:
    def pods(replicas: Sequence[Demand]) -> int:
        count = 0
        while replicas:  # with one pod more, until all have a place
            count += 1
            memory_bytes = GIB_PER_CPU * 2**30 * target.worker_cpus
            left = first_fit(replicas, [Room(target.worker_cpus, gpus, memory_bytes)])
            if len(left) == len(replicas):
                break  # larger than a pod; refused elsewhere
            replicas = left
        return count

    least = pods([each for each in members for _ in range(each.least)])
    most = pods([each for each in members for _ in range(_SURGE * each.most)])
    # two replicas of the gateway are meant to survive the loss of a pod
    spread = min(2, max((each.least for each in members if each.name == GATEWAY), default=0))
    min_pods = max(least, spread)
    return WorkerGroup(name, target.worker_cpus, gpus, min_pods, max(most, min_pods, 1))
