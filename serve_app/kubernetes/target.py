"""Where the manifests are for: the choices that the pipeline file does not make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["GIB_PER_CPU", "Target", "Upgrade", "labels", "metadata"]

GIB_PER_CPU = 4
"""Memory of a pod for each of its CPUs, as general-purpose nodes of all clouds have."""

Upgrade = Literal["new-cluster", "incremental"]


@dataclass(frozen=True)
class Target:
    """A Kubernetes cluster and how the pipeline runs on it.

    Attributes:
        image: of all containers.
        name: of the RayService; begins the names of everything that belongs to it. ``""``: the pipeline's.
        namespace: of everything.
        head_cpus: CPUs of the head pod.
        worker_cpus: CPUs of a worker pod.
        worker_gpus: GPUs of a worker pod for steps that reserve some.
        gpu_type: label of the nodes with such a GPU, ``KEY=VALUE``, or the product that NVIDIA's feature discovery
            names, for example ``NVIDIA-L4``; ``None``: any node with a GPU.
        redis: URL of the Redis that keeps the cluster's state; ``None``: it is lost with the head pod.
        models: ``"image"``: in the image; ``"download"``: each pod fetches them; otherwise the name of a
            PersistentVolumeClaim that has them.
        upgrade: how a changed RayService replaces the running one: a whole new cluster, or one that takes over step by
            step.
        gateway_class: class of the Gateway API for an incremental upgrade.
    """

    image: str
    name: str = ""
    namespace: str = "visiongraph"
    head_cpus: int = 2
    worker_cpus: int = 4
    worker_gpus: int = 1
    gpu_type: str | None = None
    redis: str | None = None
    models: str = "image"
    upgrade: Upgrade = "new-cluster"
    gateway_class: str | None = None


def labels(target: Target, component: str | None = None) -> dict[str, str]:
    """Labels that all objects and pods of a target have; with ``component``, those of one kind of pod."""
    common = {"app.kubernetes.io/part-of": "visiongraph", "app.kubernetes.io/instance": target.name}
    return common if component is None else {**common, "app.kubernetes.io/component": component}


def metadata(target: Target, suffix: str = "") -> dict[str, Any]:
    """``metadata`` of an object."""
    return {"name": target.name + suffix, "namespace": target.namespace, "labels": labels(target)}
