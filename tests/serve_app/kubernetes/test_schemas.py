"""The rendered examples against the schemas of Kubernetes and KubeRay, and mistakes that these find."""

from __future__ import annotations

import copy
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_checks import pods, problems

EXAMPLES = Path(__file__).parents[3] / "configs" / "kubernetes"
NAMES = ("demo", "production")

REMOVED = object()

_HEAD = "RayService.spec.rayClusterConfig.headGroupSpec"
_GROUP = "RayService.spec.rayClusterConfig.workerGroupSpecs.0"
_CONTAINER = f"{_GROUP}.template.spec.containers.0"
MISTAKES: dict[str, Any] = {
    # misspelt keys
    "RayService.spec.serveConfig": "applications: []",
    "RayService.spec.excludeHeadPodFromServeService": True,
    "RayService.spec.upgradeStrategy.strategy": "NewCluster",
    "RayService.spec.rayClusterConfig.enableInTreeAutoScaling": True,
    "RayService.spec.rayClusterConfig.autoscalerOptions.idleTimeout": 60,
    "RayService.spec.rayClusterConfig.gcsFaultToleranceOptions.redisAdress": "redis:6379",
    "RayService.spec.rayClusterConfig.authOptions.secret": "token",
    f"{_HEAD}.rayStartParam": {},
    f"{_GROUP}.minReplica": 1,
    f"{_CONTAINER}.enviroment": [],
    f"{_CONTAINER}.livenessProbe.httpget": {"port": 1},
    f"{_CONTAINER}.securityContext.readOnlyRootFileSystem": True,
    # wrong levels
    "RayService.spec.workerGroupSpecs": [],
    "RayService.spec.rayClusterConfig.serveConfigV2": "",
    "RayService.spec.rayVersion": "2.60.0",
    f"{_GROUP}.template.containers": [],
    f"{_GROUP}.template.spec.image": "visiongraph:0.1.0",
    f"{_CONTAINER}.cpu": "1",
    # wrong types and values
    "RayService.spec.serveConfigV2": {"applications": []},
    "RayService.spec.upgradeStrategy.type": "RollingUpdate",
    "RayService.spec.rayClusterConfig.autoscalerOptions.version": 2,
    "RayService.spec.rayClusterConfig.authOptions.mode": "password",
    f"{_HEAD}.rayStartParams.num-cpus": 0,
    f"{_GROUP}.maxReplicas": "4",
    f"{_GROUP}.replicas": 1_000,
    f"{_GROUP}.template.spec.restartPolicy": "Always",
    f"{_CONTAINER}.env.0.value": 1,
    f"{_CONTAINER}.ports.0.containerPort": "http",
    "RayService.metadata.name": "Street",
    # what must be there is not
    "RayService.spec.rayClusterConfig.headGroupSpec": REMOVED,
    f"{_GROUP}.groupName": REMOVED,
    # the other kinds
    "PodDisruptionBudget.spec.minAvailble": 1,
    "PodDisruptionBudget.spec.selector": "app=street",
    "NetworkPolicy.spec.policyType": ["Ingress"],
    "NetworkPolicy.spec.ingress.1.port": 8000,
    "NetworkPolicy.spec.egress.0.to.0.podSelector.labels": {},
    "ServiceAccount.automountServiceAccountToken": "yes",
    "PodMonitor.spec.podMetricsEndpoints.0.port": 8080,
    "PodMonitor.spec.podMetricEndpoints": [],
}
"""What is written at a place of the production example."""


@cache
def example(name: str) -> list[dict[str, Any]]:
    return list(yaml.load_all((EXAMPLES / f"{name}.yaml").read_text(), Loader=yaml.CSafeLoader))


@pytest.fixture
def crds(shared_data: Path) -> Path:
    return shared_data / "kubernetes"


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_have_no_mistake(name: str, crds: Path) -> None:
    documents = example(name)
    assert problems([*documents, *pods(documents)], crds) == []


def test_there_are_enough_mistakes() -> None:
    assert len(MISTAKES) >= 30


@pytest.mark.parametrize("place", MISTAKES)
def test_a_mistake_is_found(place: str, crds: Path) -> None:
    kind, *path = place.split(".")
    document = copy.deepcopy(next(each for each in example("production") if each["kind"] == kind))
    block: Any = document
    for key in path[:-1]:
        block = block[int(key)] if key.isdigit() else block[key]
    if MISTAKES[place] is REMOVED:
        del block[path[-1]]
    else:
        assert block.get(path[-1]) != MISTAKES[place]
        block[path[-1]] = MISTAKES[place]
    assert problems([document], crds)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_checkov_finds_nothing_else(name: str, tmp_path: Path) -> None:
    checkov = shutil.which("checkov")
    if checkov is None:
        pytest.skip("checkov is not installed; it wants an environment of its own: pipx install checkov")
    accepted = {
        "CKV_K8S_15": "imagePullPolicy: tags are not moved, and kind has its images locally",
        "CKV_K8S_35": "URLs take passwords from environment variables",
        "CKV_K8S_38": "the autoscaler in the head pod calls the API server",
        "CKV_K8S_43": "the digest belongs to --image",
    }
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all([*example(name), *pods(example(name))]))
    command = [checkov, "--framework", "kubernetes", "--file", str(file), "--skip-download", "--compact", "--quiet"]
    done = subprocess.run(
        [*command, "--skip-check", ",".join(accepted)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
