from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from graph import load, load_plan
from graph.pipeline_file.split import merge
from serve_app.deployments.fitting import Machine
from serve_app.rendering.serve_file import render

PIPELINE = """
name: street
pipeline:
  - name: detect
    class: toys.Blobs
    params: {min_area: 9}
    serve: {num_gpus: 0.25, max_batch_size: 16, max_queued_requests: 100}
  - name: colour
    class: toys.MeanColour
    depends_on: detect
    condition: "'person' in context['detect']['detected_classes']"
    timeout_ms: 500
    serve:
      autoscaling: {min_replicas: 1, max_replicas: 4}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "street.yaml"
    path.write_text(PIPELINE)
    return path


@pytest.fixture
def config(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(render(file))
    return loaded


def test_serve_takes_it(config: dict[str, Any]) -> None:
    schema = ServeDeploySchema.model_validate(config)
    assert [d.name for d in schema.applications[0].deployments] == ["detect", "colour", "gateway"]


def test_structure_and_tunables_are_the_pipeline(config: dict[str, Any], file: Path) -> None:
    [application] = config["applications"]
    blocks = [deployment["user_config"] for deployment in application["deployments"]]
    assert all(block == blocks[0] for block in blocks)
    assert load(merge(application["args"]["pipeline"], blocks[0])) == load(file)


@pytest.mark.parametrize(
    "change",
    [
        ("min_area: 9", "min_area: 10"),
        ("'person' in", "'car' in"),
        ("timeout_ms: 500", "on_error: fail"),
        ("max_batch_size: 16", "max_batch_size: 8"),
    ],
)
def test_a_change_of_a_tunable_leaves_the_structure_alone(
    config: dict[str, Any], file: Path, change: tuple[str, str]
) -> None:
    file.write_text(PIPELINE.replace(*change))
    changed = yaml.safe_load(render(file))
    assert changed["applications"][0]["args"] == config["applications"][0]["args"]
    assert changed != config


def test_a_change_of_the_structure_is_one_of_the_args(config: dict[str, Any], file: Path) -> None:
    file.write_text(PIPELINE.replace("toys.Blobs", "toys.Size").replace("params: {min_area: 9}", ""))
    assert yaml.safe_load(render(file))["applications"][0]["args"] != config["applications"][0]["args"]


def test_deployment_options(config: dict[str, Any]) -> None:
    detect, colour, entry = config["applications"][0]["deployments"]
    assert entry["max_ongoing_requests"] > 1000  # the gateway counts itself, once a body has arrived
    assert detect["ray_actor_options"] == {"num_cpus": 0.25, "num_gpus": 0.25}
    assert detect["max_ongoing_requests"] > 1000  # its callers and its replicas count calls, which come in groups
    assert "max_queued_requests" not in detect
    assert detect["user_config"]["detect"]["serve"]["max_queued_requests"] == 100
    assert detect["num_replicas"] == 1
    assert detect["max_surge_percent"] == 100
    assert colour["autoscaling_config"]["max_replicas"] == 4
    assert "num_replicas" not in colour


def test_who_is_known_on_loopback(file: Path) -> None:
    for host, known in (("127.0.0.1", ["localhost", "127.0.0.1", "::1"]), ("0.0.0.0", None)):
        assert yaml.safe_load(render(file, host=host))["applications"][0]["args"]["gateway"].get("hosts") == known


def test_the_replicas_get_the_import_path_and_the_model_folders(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/plugins")
    monkeypatch.setenv("VISIONGRAPH_MODELS", "/models")
    monkeypatch.delenv("VISIONGRAPH_CACHE", raising=False)
    environment = yaml.safe_load(render(file))["applications"][0]["runtime_env"]["env_vars"]
    assert environment == {"PYTHONPATH": "/plugins", "VISIONGRAPH_MODELS": "/models"}


def test_it_is_for_people_too(file: Path) -> None:
    text = render(file)
    assert "&tunables" in text
    assert text.count("*tunables") == 2
    for words in ("serve deploy", "applied in place", "rolls every deployment"):
        assert words in text


def test_the_inline_pipeline_needs_no_file(config: dict[str, Any]) -> None:
    assert load_plan(config["applications"][0]["args"]["pipeline"]).name == "street"


def test_the_committed_serve_config_is_what_is_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[3]
    for key in ("PYTHONPATH", "VISIONGRAPH_CACHE", "VISIONGRAPH_MODELS"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.chdir(root)
    again = "render it again: visiongraph render configs/demo.yaml > configs/serve/demo.yaml"
    assert (root / "configs" / "serve" / "demo.yaml").read_text() == render("configs/demo.yaml"), again


def test_fitted_to_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "open.yaml"
    path.write_text(PIPELINE.replace("num_gpus: 0.25, ", "").replace("max_queued_requests: 100", "num_cpus: 2"))
    assert yaml.safe_load(render(path, machine=Machine(4)))["applications"][0]["deployments"][0]["name"] == "detect"

    path.write_text(path.read_text().replace("autoscaling: {min_replicas: 1, max_replicas: 4}", "max_batch_size: 2"))
    [entry] = yaml.safe_load(render(path, machine=Machine(4)))["applications"][0]["deployments"]
    assert entry["name"] == "gateway"
    assert entry["num_replicas"] == 4
