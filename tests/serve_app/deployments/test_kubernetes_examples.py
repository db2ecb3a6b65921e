"""The Serve configs in the Kubernetes examples deploy, and answer an image."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

EXAMPLES = Path(__file__).parents[3] / "configs" / "kubernetes"


def serve_config(example: str) -> str:
    documents = yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text())
    (service,) = (each for each in documents if each["kind"] == "RayService")
    config: str = service["spec"]["serveConfigV2"]
    return config


def visiongraph(*arguments: object) -> str:
    command = [str(Path(sys.executable).with_name("visiongraph")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    if done.returncode:
        pytest.skip(done.stderr[-500:])
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _remove() -> Iterator[None]:
    yield
    from ray import serve

    for name in ("demo", "street"):
        serve.delete(name, _blocking=False)


def answer(client: httpx.Client, photo: Path, **headers: str) -> dict[str, Any]:
    response = client.post(
        "/v1/images", content=photo.read_bytes(), headers={"Content-Type": "image/jpeg", **headers}, timeout=60
    )
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def test_demo(serve_deploy: Callable[[str], httpx.Client], shared_data: Path) -> None:
    visiongraph("models", EXAMPLES.parent / "demo.yaml", "--download")
    result = answer(serve_deploy(serve_config("demo")), shared_data / "corpus" / "bus.jpg")
    assert "person" in result["context"]["object_detection"]["detected_classes"]


def test_production(serve_deploy: Callable[[str], httpx.Client], shared_data: Path, tmp_path: Path) -> None:
    """With models and services of this machine in place of those outside."""
    key = visiongraph("keys", "create", "--tenant", "acme", "--scope", "infer", "--file", tmp_path / "keys.json")
    config = serve_config("production")
    for outside, here in {
        "yolo11n.pt": str(shared_data / "models" / "yolo11n_int8_openvino_model"),
        "therealcyberlord/stanford-car-vit-patch16": str(shared_data / "models" / "vit_car_make20"),
        "/etc/visiongraph/gateway/keys.json": str(tmp_path / "keys.json"),
        "amqp://visiongraph:${RABBITMQ_PASSWORD}@rabbitmq.messaging:5672/?queue=photos": f"sqlite:///{tmp_path}/jobs.db",
        "s3://YOUR-BUCKET/results?region=eu-west-1": str(tmp_path / "results"),
    }.items():
        assert outside in config
        config = config.replace(outside, here)
    client = serve_deploy(config)
    assert client.post("/v1/images", content=b"").status_code == 401
    result = answer(client, shared_data / "corpus" / "bus.jpg", Authorization=f"Bearer {key}")
    assert [step["status"] for step in result["steps"] if step["name"] == "object_detection"] == ["ok"]
    assert "person" in result["context"]["object_detection"]["detected_classes"]
