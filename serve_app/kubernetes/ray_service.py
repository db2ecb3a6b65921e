"""The RayService: the Serve config, the head, the worker groups, and how a change replaces them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from serve_app.config import IntakeConfig
from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.pods import CONTAINER_SECURITY, HTTP_PORT, TMP_MOUNT, head_template, worker_template
from serve_app.kubernetes.references import References
from serve_app.kubernetes.target import Target, metadata

__all__ = ["ray_service"]

_IDLE_S = 300
_LEAST_DRAIN_S = 30
_STOP_EXTRA_S = 20  # as the workers' deployment has beyond its own time to stop


def ray_service(
    target: Target,
    references: References,
    groups: Sequence[WorkerGroup],
    serve_config: str,
    intake: IntakeConfig | None,
) -> dict[str, Any]:
    """The RayService of an application."""
    stop_s = 0 if intake is None else math.ceil(intake.stop_s) + _STOP_EXTRA_S
    drain_s = max(_LEAST_DRAIN_S, stop_s)
    cluster: dict[str, Any] = {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": _autoscaler(),
        "authOptions": {"mode": "token", "secretName": references.token},
        **_fault_tolerance(target, references),
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - see the NetworkPolicy
            "template": head_template(target, references),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "minReplicas": group.min_pods,
                "maxReplicas": group.max_pods,
                "replicas": group.min_pods,
                "idleTimeoutSeconds": _IDLE_S,
                "rayStartParams": {},
                "template": worker_template(target, references, group, drain_s=drain_s),
            }
            for group in groups
        ],
    }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": metadata(target),
        "spec": {
            "upgradeStrategy": _upgrade(target),
            "rayClusterDeletionDelaySeconds": max(60, drain_s),
            "excludeHeadPodFromServeSvc": True,
            "serveService": {
                "metadata": metadata(target, "-serve"),
                "spec": {"type": "ClusterIP", "ports": [{"name": "serve", "port": HTTP_PORT}]},
            },
            "serveConfigV2": serve_config,
            "rayClusterConfig": cluster,
        },
    }


def _upgrade(target: Target) -> dict[str, Any]:
    if target.upgrade == "new-cluster":
        return {"type": "NewCluster"}
    return {
        "type": "NewClusterWithIncrementalUpgrade",
        "clusterUpgradeOptions": {
            "gatewayClassName": target.gateway_class,
            "stepSizePercent": 10,
            "maxSurgePercent": 25,
            "intervalSeconds": 30,
        },
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
