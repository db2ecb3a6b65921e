"""The RayJob of a bulk run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_checks import problems

from classifiers import SetupError
from serve_app.kubernetes import Batch, Target, render_batch

ROOT = Path(__file__).parents[3]
BATCH = Batch(["s3://photos/2026/", "gs://more/a b.csv"], "s3://bucket/results", processes=6)


def rendered(batch: Batch = BATCH, **target: Any) -> dict[str, dict[str, Any]]:
    text = render_batch(ROOT / "configs" / "street.yaml", Target(image="visiongraph:1", **target), batch)
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize("models", ["image", "download", "claim"])
def test_it_fits_the_schemas(models: str, shared_data: Path) -> None:
    documents = list(rendered(models=models, gpu_type="NVIDIA-L4").values())
    assert problems(documents, shared_data / "kubernetes") == []


def test_it_runs_the_command_on_as_many_pods_as_its_processes_fill() -> None:
    job = rendered(worker_gpus=2)["RayJob street-batch"]["spec"]
    command = shlex.split(job["entrypoint"])
    assert command[:2] == ["visiongraph", "batch"]
    assert command[3:] == [*BATCH.sources, "--out", BATCH.out, "--in-flight", "6"]
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["replicas"], group["maxReplicas"]) == (3, 3, 3)  # 0.75 of a GPU each
    pods = [job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"], group["template"]["spec"]]
    for pod in pods:
        assert "lifecycle" not in pod["containers"][0]  # nothing of Serve
        assert "8000" not in str(pod["containers"][0]["readinessProbe"])
    assert any(volume["name"] == "pipeline" for volume in pods[0]["volumes"])


def test_it_shares_no_name_with_the_service() -> None:
    assert all("street-batch" in name for name in rendered())


@pytest.mark.parametrize(
    ("batch", "target", "words"),
    [
        (Batch(["photos/"], "s3://b/r"), {}, "photos/ is not on the pods"),
        (Batch(["s3://b/"], "results"), {}, "results is not on the pods"),
        (BATCH, {"worker_gpus": 0}, "reserves 0.75 GPU"),
    ],
)
def test_what_cannot_work_is_refused(batch: Batch, target: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError, match=words):
        rendered(batch, **target)
