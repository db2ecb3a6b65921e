"""What is deployed beside the RayService: the account, disruption budgets, monitors, the pipeline file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.pods import METRICS_PORTS
from serve_app.kubernetes.target import Target, labels, metadata

__all__ = ["disruption_budgets", "pipeline_file", "pod_monitors", "service_account"]


def service_account(target: Target) -> dict[str, Any]:
    """The account of all pods: annotate it where the cloud gives credentials to accounts. Only the head, whose
    autoscaler calls the API server, mounts its token."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(target),
        "automountServiceAccountToken": True,
    }


def disruption_budgets(target: Target, groups: Sequence[WorkerGroup]) -> list[dict[str, Any]]:
    """One for each group with pods to spare: a node that is drained takes one pod at a time. A number and not a
    share, which Kubernetes allows only for its own controllers. A group with one pod has none: it would keep the node
    from being drained."""
    return [
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": metadata(target, f"-{group.name}"),
            "spec": {"minAvailable": group.min_pods - 1, "selector": {"matchLabels": labels(target, group.name)}},
        }
        for group in groups
        if group.min_pods > 1
    ]


def pod_monitors(target: Target, groups: Sequence[WorkerGroup]) -> list[dict[str, Any]]:
    """For the Prometheus operator: what the head and the workers export."""
    selectors = {
        "head": {"matchLabels": labels(target, "head")},
        "worker": {
            "matchLabels": labels(target),
            "matchExpressions": [
                {"key": "app.kubernetes.io/component", "operator": "In", "values": [group.name for group in groups]}
            ],
        },
    }
    return [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PodMonitor",
            "metadata": metadata(target, f"-{kind}"),
            "spec": {
                "selector": selector,
                "podMetricsEndpoints": [{"port": port, "interval": "30s"} for port in METRICS_PORTS[kind]],
            },
        }
        for kind, selector in selectors.items()
    ]


def pipeline_file(target: Target, text: str) -> dict[str, Any]:
    """The pipeline file, for the pods that fetch its models."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(target, "-pipeline"),
        "data": {"pipeline.yaml": text},
    }
