"""Pod templates of the head and the workers: environment, probes, volumes, and what their processes may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.references import GATEWAY_FOLDER, References
from serve_app.kubernetes.target import GIB_PER_CPU, Target, labels
from serve_app.local import FAST_ENVIRONMENT

__all__ = [
    "CONTAINER_SECURITY",
    "DASHBOARD_PORT",
    "ENVIRONMENT",
    "HTTP_PORT",
    "METRICS_PORTS",
    "PIPELINE_FILE",
    "TMP_MOUNT",
    "USER_ID",
    "batch_head_template",
    "batch_worker_template",
    "head_template",
    "worker_template",
]

HTTP_PORT = 8000
DASHBOARD_PORT = 8265
_AGENT_PORT = 52365

METRICS_PORTS = {
    "head": {"metrics": 8080, "haproxy": 9101, "as-metrics": 44217, "dash-metrics": 44227},
    "worker": {"metrics": 8080, "haproxy": 9101},
}
"""Ports that Prometheus scrapes, by name: Ray's agent, HAProxy, the autoscaler, the dashboard."""

_MODELS = "/models"
_PIPELINE_FOLDER = "/etc/visiongraph/pipeline"
PIPELINE_FILE = f"{_PIPELINE_FOLDER}/pipeline.yaml"
"""Where pods that read it have the pipeline file."""

_TMP = "/tmp"  # noqa: S108 - a volume of the pod's own
TMP_MOUNT = {"name": "tmp", "mountPath": _TMP}
"""The one place that is writable."""

ENVIRONMENT: Mapping[str, str] = {
    **FAST_ENVIRONMENT,
    "RAY_SERVE_HAPROXY_BINARY_PATH": "/opt/visiongraph/bin/visiongraph-haproxy",
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
    "RAY_SERVE_DEFAULT_HTTP_HOST": "0.0.0.0",  # noqa: S104 - other pods call the replicas
    "RAY_USAGE_STATS_ENABLED": "0",
    "VISIONGRAPH_MODELS": _MODELS,
    "HOME": _TMP,  # the root file system is read-only
}
_DOWNLOADS: Mapping[str, str] = {"VISIONGRAPH_CACHE": _MODELS, "HF_HOME": f"{_MODELS}/huggingface"}

USER_ID = 10001
"""Of the image's user."""

_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "fsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def head_template(target: Target, references: References) -> dict[str, Any]:
    """The head: Ray's servers, the dashboard, Serve's controller; no replica."""
    container = {
        **_container(target, "ray-head", ENVIRONMENT, references),
        "ports": _ports({"gcs-server": 6379, "dashboard": DASHBOARD_PORT, "serve": HTTP_PORT, **METRICS_PORTS["head"]}),
        "resources": _resources(target.head_cpus, GIB_PER_CPU * target.head_cpus),
        **_raylet_probes(),
        # Not Serve's proxy: the application is deployed once the head is ready.
        "readinessProbe": _probe("/api/gcs_healthz", DASHBOARD_PORT, failures=10),
    }
    return _template(target, "head", _with_volumes(container, _common_volumes(references)))


def worker_template(target: Target, references: References, group: WorkerGroup, *, drain_s: int) -> dict[str, Any]:
    """Workers of a group.

    Args:
        drain_s: time that the replicas on a pod have to finish before it is stopped.
    """
    gpus = {"nvidia.com/gpu": str(group.gpus)} if group.gpus else {}
    container = {
        **_container(target, "ray-worker", _environment(target), references),
        "ports": _ports({"serve": HTTP_PORT, **METRICS_PORTS["worker"]}),
        "resources": _resources(group.cpus, group.memory_gib, gpus),
        **_raylet_probes(),
        "readinessProbe": _probe("/-/healthz", HTTP_PORT, failures=1),
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", _drain(drain_s)]}}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels(target, group.name)},
    }
    placement: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": drain_s + 15,
        "topologySpreadConstraints": [spread],
        **(_on_gpu_nodes(target.gpu_type) if group.gpus else {}),
        **_init(target),
    }
    volumes = {**_common_volumes(references), **_model_volumes(target)}
    return _template(target, group.name, _with_volumes(container, volumes), placement)


def batch_head_template(target: Target, references: References) -> dict[str, Any]:
    """The head of a bulk run, which reads the pipeline file and the models for their digests."""
    container = {
        **_container(target, "ray-head", _environment(target), references),
        "ports": _ports({"gcs-server": 6379, "dashboard": DASHBOARD_PORT, **METRICS_PORTS["head"]}),
        "resources": _resources(target.head_cpus, GIB_PER_CPU * target.head_cpus),
        **_raylet_probes(),
        "readinessProbe": _probe("/api/gcs_healthz", DASHBOARD_PORT, failures=10),
    }
    volumes = {**_common_volumes(references), **_pipeline_volume(target), **_model_volumes(target)}
    return _template(target, "head", _with_volumes(container, volumes), _init(target))


def batch_worker_template(target: Target, references: References, group: WorkerGroup) -> dict[str, Any]:
    """Workers of a bulk run. One that is evicted repeats the chunks that it had."""
    gpus = {"nvidia.com/gpu": str(group.gpus)} if group.gpus else {}
    container = {
        **_container(target, "ray-worker", _environment(target), references),
        "ports": _ports(METRICS_PORTS["worker"]),
        "resources": _resources(group.cpus, group.memory_gib, gpus),
        **_raylet_probes(),
        "readinessProbe": _probe("/api/local_raylet_healthz", _AGENT_PORT, failures=1),
    }
    placement = {
        "automountServiceAccountToken": False,
        **(_on_gpu_nodes(target.gpu_type) if group.gpus else {}),
        **_init(target),
    }
    volumes = {**_common_volumes(references), **_model_volumes(target)}
    return _template(target, group.name, _with_volumes(container, volumes), placement)


def _environment(target: Target) -> Mapping[str, str]:
    return {**ENVIRONMENT, **(_DOWNLOADS if target.models == "download" else {})}


def _init(target: Target) -> dict[str, Any]:
    return {"initContainers": [_downloads(target)]} if target.models == "download" else {}


# Volumes are written once, with the path that each is mounted at: {path: {"name": ..., KIND: {...}, "readOnly": ...}}.


def _common_volumes(references: References) -> dict[str, dict[str, Any]]:
    volumes: dict[str, dict[str, Any]] = {_TMP: {"name": "tmp", "emptyDir": {}}}
    if references.files:
        volumes[GATEWAY_FOLDER] = {"name": "gateway", "secret": {"secretName": references.gateway}}
    return volumes


def _model_volumes(target: Target) -> dict[str, dict[str, Any]]:
    if target.models == "image":
        return {}
    if target.models == "download":
        return {_MODELS: {"name": "models", "emptyDir": {}}, **_pipeline_volume(target)}
    return {_MODELS: {"name": "models", "persistentVolumeClaim": {"claimName": target.models, "readOnly": True}}}


def _pipeline_volume(target: Target) -> dict[str, dict[str, Any]]:
    return {_PIPELINE_FOLDER: {"name": "pipeline", "configMap": {"name": f"{target.name}-pipeline"}}}


def _with_volumes(container: dict[str, Any], volumes: Mapping[str, dict[str, Any]]) -> tuple[dict[str, Any], list[Any]]:
    """The container with what it mounts, and the pod's volumes."""
    mounts = [
        {"name": volume["name"], "mountPath": path} | ({} if "emptyDir" in volume else {"readOnly": True})
        for path, volume in volumes.items()
    ]
    return {**container, "volumeMounts": mounts}, list(volumes.values())


def _template(
    target: Target,
    component: str,
    container_and_volumes: tuple[dict[str, Any], list[Any]],
    placement: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    container, volumes = container_and_volumes
    spec = {
        "serviceAccountName": target.name,
        "securityContext": _POD_SECURITY,
        **(placement or {}),
        "containers": [container],
        "volumes": volumes,
    }
    return {"metadata": {"labels": labels(target, component)}, "spec": spec}


def _container(target: Target, name: str, environment: Mapping[str, str], references: References) -> dict[str, Any]:
    return {
        "name": name,
        "image": target.image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in environment.items()]
        + [{"name": each, "valueFrom": references.value(each)} for each in references.variables],
        "securityContext": CONTAINER_SECURITY,
    }


def _downloads(target: Target) -> dict[str, Any]:
    """Fetches the models before Ray starts."""
    container = {
        **_container(target, "models", {**_DOWNLOADS, "HOME": _TMP}, References("", "", {}, "", ())),
        "command": ["visiongraph", "models", PIPELINE_FILE, "--download"],
        "resources": _resources(1, GIB_PER_CPU),
    }
    volumes = {_TMP: {"name": "tmp", "emptyDir": {}}, **_model_volumes(target)}
    return _with_volumes(container, volumes)[0]


def _on_gpu_nodes(gpu_type: str | None) -> dict[str, Any]:
    placement: dict[str, Any] = {
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    }
    if gpu_type is not None:
        key, separator, value = gpu_type.partition("=")
        placement["nodeSelector"] = {key: value} if separator else {"nvidia.com/gpu.product": key}
    return placement


def _resources(cpus: int, memory_gib: int, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    size = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", **(more or {})}
    return {"limits": size, "requests": dict(size)}


def _ports(ports: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "containerPort": port} for name, port in ports.items()]


def _raylet_probes() -> dict[str, Any]:
    path = "/api/local_raylet_healthz"
    return {
        "startupProbe": _probe(path, _AGENT_PORT, failures=60),
        "livenessProbe": _probe(path, _AGENT_PORT, failures=12),
    }


def _probe(path: str, port: int, failures: int) -> dict[str, Any]:
    request = {"path": path, "port": port}
    return {"httpGet": request, "periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": failures}


def _drain(seconds: int) -> str:
    """Drain the node: Serve starts replicas elsewhere, and those on this node finish their requests."""
    return (
        "ray drain-node --reason=DRAIN_NODE_REASON_PREEMPTION --reason-message=evicted "
        f"--deadline-remaining-seconds={seconds} && sleep {seconds}"
    )
