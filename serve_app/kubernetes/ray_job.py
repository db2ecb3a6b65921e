"""The RayJob of a bulk run: a cluster for its time, whose head runs ``visiongraph batch``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from classifiers import SetupError
from graph import Plan
from serve_app.bulk.running import process_resources
from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.pods import PIPELINE_FILE, batch_head_template, batch_worker_template
from serve_app.kubernetes.ray_cluster import ray_cluster
from serve_app.kubernetes.references import References
from serve_app.kubernetes.target import GIB_PER_CPU, Target, metadata

__all__ = ["Batch", "batch_group", "ray_job"]

_TRIES_AGAIN = 3
_KEEP_S = 3600


@dataclass(frozen=True, slots=True)
class Batch:
    """A bulk run: ``sources`` and ``out`` as of ``visiongraph batch``, and how many processes it has at most."""

    sources: Sequence[str]
    out: str
    processes: int = 8


def batch_group(plan: Plan, target: Target, batch: Batch) -> WorkerGroup:
    """The worker pods of a run: as many as its processes fill, from the start to the end.

    Raises:
        SetupError: a process does not fit into a pod.
    """
    wanted = process_resources(plan)
    pod = {"CPU": target.worker_cpus, "GPU": target.worker_gpus, "memory": GIB_PER_CPU * 2**30 * target.worker_cpus}
    for name, amount in wanted.items():
        if amount > pod.get(name, 0):
            raise SetupError(
                f"a process with all steps reserves {amount:g} {name}; a worker pod has {pod.get(name, 0):g}: raise "
                "--worker-cpus or --worker-gpus, or lower the reservations in the steps' serve: blocks"
            )
    of_a_pod = min(int(pod[name] / amount) for name, amount in wanted.items())
    gpus = target.worker_gpus if "GPU" in wanted else 0
    pods = math.ceil(batch.processes / of_a_pod)
    return WorkerGroup("batch", target.worker_cpus, gpus, pods, pods)


def ray_job(target: Target, references: References, group: WorkerGroup, batch: Batch) -> dict[str, Any]:
    """The RayJob. A run that fails is continued by the next try, which has a new cluster."""
    command = ["visiongraph", "batch", PIPELINE_FILE, *batch.sources, "--out", batch.out]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(target),
        "spec": {
            "entrypoint": shlex.join([*command, "--in-flight", str(batch.processes)]),
            "submissionMode": "HTTPMode",
            "backoffLimit": _TRIES_AGAIN,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _KEEP_S,
            "rayClusterSpec": ray_cluster(
                target,
                references,
                [group],
                batch_head_template(target, references),
                {group.name: batch_worker_template(target, references, group)},
            ),
        },
    }
