"""The cluster of a RayService or a RayJob: the head, the worker groups, the autoscaler, the state in Redis."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.pods import CONTAINER_SECURITY, TMP_MOUNT
from serve_app.kubernetes.references import References
from serve_app.kubernetes.target import Target

__all__ = ["ray_cluster"]

_IDLE_S = 300


def ray_cluster(
    target: Target,
    references: References,
    groups: Sequence[WorkerGroup],
    head: Mapping[str, Any],
    workers: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The cluster's specification.

    Args:
        groups: sizes and numbers of the worker pods.
        head: the head's pod template.
        workers: the pod template of each group, by its name.
    """
    return {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": _autoscaler(),
        "authOptions": {"mode": "token", "secretName": references.token},
        **_fault_tolerance(target, references),
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - see the NetworkPolicy
            "template": dict(head),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "minReplicas": group.min_pods,
                "maxReplicas": group.max_pods,
                "replicas": group.min_pods,
                "idleTimeoutSeconds": _IDLE_S,
                "rayStartParams": {},
                "template": dict(workers[group.name]),
            }
            for group in groups
        ],
    }


def _autoscaler() -> dict[str, Any]:
    size = {"cpu": "500m", "memory": "1Gi"}
    return {
        "version": "v2",
        "idleTimeoutSeconds": _IDLE_S,
        "imagePullPolicy": "IfNotPresent",
        "resources": {"limits": size, "requests": dict(size)},
        "securityContext": CONTAINER_SECURITY,
        "env": [{"name": "HOME", "value": TMP_MOUNT["mountPath"]}],
        "volumeMounts": [TMP_MOUNT],
    }


def _fault_tolerance(target: Target, references: References) -> dict[str, Any]:
    if target.redis is None:
        return {}
    address = re.sub(r"//[^@/]*@", "//", target.redis)
    options: dict[str, Any] = {"redisAddress": address}
    if password := re.search(r"//(?:(?P<user>[^:@/]*):)?\$\{(?P<name>\w+)\}@", target.redis):
        options["redisPassword"] = {"valueFrom": references.value(password["name"])}
        if password["user"]:
            options["redisUsername"] = {"value": password["user"]}
    return {"gcsFaultToleranceOptions": options}
