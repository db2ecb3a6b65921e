from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_checks import pods, problems
from ray.serve.schema import ServeDeploySchema

from serve_app.config import read_gateway_config
from serve_app.kubernetes import Target, render_kubernetes
from serve_app.local import FAST_ENVIRONMENT

ROOT = Path(__file__).parents[3]

_KEYS = {"auth": {"keys_file": "/home/me/keys.json"}}


def environment(pod: dict[str, Any]) -> dict[str, Any]:
    variables = pod["spec"]["containers"][0]["env"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in variables}


def mounts(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is mounted, by its path."""
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    return {each["mountPath"]: volumes[each["name"]] for each in pod["spec"]["containers"][0]["volumeMounts"]}


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"intake": {}},
        {"gateway": {**_KEYS, "num_replicas": 3}, "models": "claim"},
        {"gpu_type": "cloud.google.com/gke-accelerator=nvidia-l4"},
        {"redis": "rediss://me:${REDIS_PASSWORD}@redis:6380"},
        {"upgrade": "incremental", "gateway_class": "istio"},
    ],
    ids=str,
)
def test_every_choice_gives_valid_manifests(choice: dict[str, Any], manifests: Any, shared_data: Path) -> None:
    documents = manifests(**choice)
    assert problems([*documents, *pods(documents)], shared_data / "kubernetes") == []


def test_the_serve_config_is_what_serve_takes(manifests: Any, one: Any) -> None:
    config = yaml.safe_load(one(manifests(intake={}), "RayService")["spec"]["serveConfigV2"])
    schema = ServeDeploySchema.model_validate(config)
    assert [each.name for each in schema.applications[0].deployments] == ["detect", "colour", "gateway", "worker"]
    assert (config["http_options"]["host"], config["http_options"]["port"]) == ("0.0.0.0", 8000)
    assert "hosts" not in config["applications"][0]["args"]["gateway"]


def test_paths_of_the_machine_that_renders_are_not_in_them(manifests: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONGRAPH_MODELS", "/home/me/models")
    assert "/home/me" not in json.dumps(manifests(gateway=_KEYS))


def test_all_pods_have_the_fast_configuration(manifests: Any) -> None:
    environments = [environment(pod) for pod in pods(manifests(intake={}))]
    assert len(environments) == 3
    assert all(each == environments[0] for each in environments)
    assert FAST_ENVIRONMENT.items() <= environments[0].items()


def test_the_head_has_no_replica_and_no_requests(manifests: Any, one: Any) -> None:
    spec = one(manifests(), "RayService")["spec"]
    assert spec["excludeHeadPodFromServeSvc"] is True
    assert spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_keys_and_credentials_are_references(manifests: Any, one: Any) -> None:
    documents = manifests(gateway=_KEYS, intake={}, redis="redis://me:${REDIS_PASSWORD}@redis:6379")
    cluster = one(documents, "RayService")["spec"]["rayClusterConfig"]
    for pod in pods(documents):
        assert environment(pod)["RABBITMQ_PASSWORD"]["secretKeyRef"] == {
            "name": "street-credentials",
            "key": "RABBITMQ_PASSWORD",
        }
        assert mounts(pod)["/etc/visiongraph/gateway"]["secret"] == {"secretName": "street-gateway"}
    assert cluster["authOptions"] == {"mode": "token", "secretName": "street-ray-token"}
    assert cluster["gcsFaultToleranceOptions"] == {
        "redisAddress": "redis://redis:6379",
        "redisUsername": {"value": "me"},
        "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "street-credentials", "key": "REDIS_PASSWORD"}}},
    }
    application = yaml.safe_load(one(documents, "RayService")["spec"]["serveConfigV2"])["applications"][0]
    assert application["args"]["gateway"]["auth"]["keys_file"] == "/etc/visiongraph/gateway/keys.json"


def test_the_head_of_the_file_creates_every_secret_that_is_named(tmp_path: Path) -> None:
    text = render_kubernetes(
        ROOT / "configs" / "demo.yaml",
        Target(image="i", redis="redis://:${REDIS_PASSWORD}@redis:6379"),
        gateway=read_gateway_config(_KEYS),
    )
    commands = [line for line in text.splitlines() if line.startswith("#   kubectl")]
    assert "visiongraph create secret generic demo-ray-token --from-literal=auth_token=" in commands[1]
    assert "demo-gateway --from-file=keys.json=keys.json" in commands[2]
    assert "demo-credentials --from-literal=REDIS_PASSWORD=..." in commands[3]


def test_models_from_a_claim(manifests: Any) -> None:
    head, *workers = pods(manifests(models="street-models"))
    assert "/models" not in mounts(head)
    for pod in workers:
        assert mounts(pod)["/models"]["persistentVolumeClaim"] == {"claimName": "street-models", "readOnly": True}


def test_models_that_pods_fetch_themselves() -> None:
    gateway = read_gateway_config({"auth": "none"})
    text = render_kubernetes(ROOT / "configs" / "demo.yaml", Target(image="i", models="download"), gateway=gateway)
    documents = list(yaml.safe_load_all(text))
    (file,) = (each["data"]["pipeline.yaml"] for each in documents if each["kind"] == "ConfigMap")
    assert file == (ROOT / "configs" / "demo.yaml").read_text()
    head, worker = pods(documents)
    (fetch,) = worker["spec"]["initContainers"]
    assert fetch["command"] == ["visiongraph", "models", "/etc/visiongraph/pipeline/pipeline.yaml", "--download"]
    assert "initContainers" not in head["spec"]
    assert environment(worker)["VISIONGRAPH_CACHE"] == "/models"


def test_gpu_pods(manifests: Any) -> None:
    _, cpu, gpu = pods(manifests(gpu_type="NVIDIA-L4"))
    assert gpu["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert gpu["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert "nvidia.com/gpu" not in cpu["spec"]["containers"][0]["resources"]["limits"]
    assert "nodeSelector" not in cpu["spec"]


def test_an_evicted_pod_has_time_for_its_images(manifests: Any) -> None:
    _, worker, _ = pods(manifests(intake={"stop_s": 100}))
    (command,) = worker["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2:]
    assert "--deadline-remaining-seconds=120" in command
    assert worker["spec"]["terminationGracePeriodSeconds"] > 120


def test_budgets_leave_a_pod_to_evict(manifests: Any) -> None:
    budgets = [each for each in manifests(gateway={"num_replicas": 3}) if each["kind"] == "PodDisruptionBudget"]
    assert {each["metadata"]["name"]: each["spec"]["minAvailable"] for each in budgets} == {
        "street-cpu": 1,
        "street-gpu": 1,
    }


def test_monitors_select_ports_that_the_pods_have(manifests: Any) -> None:
    documents = manifests()
    for monitor in (each for each in documents if each["kind"] == "PodMonitor"):
        ports = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
        kind = monitor["metadata"]["name"].removeprefix("street-")
        for pod in pods(documents):
            named = {each["name"] for each in pod["spec"]["containers"][0]["ports"]}
            if (pod["metadata"]["labels"]["app.kubernetes.io/component"] == "head") == (kind == "head"):
                assert ports <= named


def test_an_incremental_upgrade(manifests: Any, one: Any) -> None:
    spec = one(manifests(upgrade="incremental", gateway_class="istio"), "RayService")["spec"]
    options = spec["upgradeStrategy"]["clusterUpgradeOptions"]
    assert options["gatewayClassName"] == "istio"
    assert options["stepSizePercent"] <= options["maxSurgePercent"]
    assert one(manifests(), "RayService")["spec"]["upgradeStrategy"] == {"type": "NewCluster"}
