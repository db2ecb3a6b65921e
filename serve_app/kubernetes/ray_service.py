"""The RayService: the Serve config, the cluster, and how a change replaces them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from serve_app.config import IntakeConfig
from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.pods import HTTP_PORT, head_template, worker_template
from serve_app.kubernetes.ray_cluster import ray_cluster
from serve_app.kubernetes.references import References
from serve_app.kubernetes.target import Target, metadata

__all__ = ["ray_service"]

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
    cluster = ray_cluster(
        target,
        references,
        groups,
        head_template(target, references),
        {group.name: worker_template(target, references, group, drain_s=drain_s) for group in groups},
    )
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
