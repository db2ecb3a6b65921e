"""What is wrong with Kubernetes manifests: the checks of the API server and of KubeRay, without either."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

Json = dict[str, Any]

_PORT = {"type": "object", "additionalProperties": False, "required": ["port"]}
_POD_MONITOR = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "podMetricsEndpoints"],
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                "matchExpressions": {"type": "array"},
            },
        },
        "podMetricsEndpoints": {
            "type": "array",
            "minItems": 1,
            "items": {
                **_PORT,
                "properties": {"port": {"type": "string"}, "interval": {"type": "string", "pattern": r"^\d+[smh]$"}},
            },
        },
    },
}
"""The fields of the Prometheus operator's PodMonitor that are used here."""


def problems(documents: list[Json], crds: Path) -> list[str]:
    """Every mistake in the manifests.

    Args:
        crds: the folder with KubeRay's custom resource definitions.
    """
    return [f"{each['kind']}: {mistake}" for each in documents for mistake in _problems(each, crds)]


def pods(documents: list[Json]) -> list[Json]:
    """The pods that KubeRay makes of the templates in a RayService, without what it adds."""
    found = []
    for service in documents:
        if service["kind"] != "RayService":
            continue
        cluster, about = service["spec"]["rayClusterConfig"], service["metadata"]
        templates = {"head": cluster["headGroupSpec"]["template"]}
        templates |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
        found += [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": about["namespace"], **template["metadata"]},
                "spec": template["spec"],
            }
            for name, template in templates.items()
        ]
    return found


def _problems(document: Json, crds: Path) -> Iterator[str]:
    if document["apiVersion"] == "ray.io/v1":
        errors = jsonschema.Draft202012Validator(_strict_crd(crds, document["kind"])).iter_errors(document)
        found = [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in errors]
        yield from found or _kuberay(document)
    elif document["kind"] == "PodMonitor":
        errors = jsonschema.Draft202012Validator(_POD_MONITOR).iter_errors(document["spec"])
        yield from (error.message for error in errors)
    else:
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield error.message


def _kuberay(document: Json) -> Iterator[str]:
    """What KubeRay's controller refuses, beyond the schema: ``ValidateRayServiceSpec`` in its sources, and what of it
    applies to a RayJob."""
    name, spec = document["metadata"]["name"], document["spec"]
    cluster = spec.get("rayClusterConfig") or spec["rayClusterSpec"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?", name):
        yield f"metadata.name: {name!r} is no name of a RayService"
    upgrade = spec.get("upgradeStrategy", {})
    if upgrade.get("type", "None") not in ("None", "NewCluster", "NewClusterWithIncrementalUpgrade"):
        yield f"spec.upgradeStrategy.type: {upgrade['type']}"
    options = upgrade.get("clusterUpgradeOptions")
    if (upgrade.get("type") == "NewClusterWithIncrementalUpgrade") != (options is not None):
        yield "spec.upgradeStrategy.clusterUpgradeOptions: needed for an incremental upgrade, and only there"
    if options and not 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100:
        yield "spec.upgradeStrategy.clusterUpgradeOptions: stepSizePercent <= maxSurgePercent <= 100"
    if options and not cluster.get("enableInTreeAutoscaling"):
        yield "an incremental upgrade needs the autoscaler"
    if cluster.get("authOptions", {}).get("mode") == "token" and not cluster.get("rayVersion"):
        yield "token authentication needs rayVersion"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            yield "restartPolicy: must be Never with autoscaler v2"
        if not group["template"]["spec"].get("containers"):
            yield "a group has no container"
    for group in cluster["workerGroupSpecs"]:
        if not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"group {group['groupName']}: minReplicas <= replicas <= maxReplicas"


@cache
def _strict_crd(crds: Path, kind: str) -> Json:
    definition = yaml.load((crds / f"ray.io_{kind.lower()}s.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema: Json = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def _strict(schema: Any) -> Any:
    """A structural schema as JSON schema, in which keys that it does not name are mistakes."""
    if not isinstance(schema, Mapping):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    strict = {
        key: _strict(value) if key in ("items", "additionalProperties") else value
        for key, value in schema.items()
        if not key.startswith("x-") and key not in ("description", "default", "nullable")
    }
    if "properties" in schema:
        strict["properties"] = {key: _strict(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    return strict
