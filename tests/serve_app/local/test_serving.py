"""What ``visiongraph serve`` deploys, on the shared cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from gateways import PNG

from graph import load_plan
from serve_app.config.gateway_config import GatewayConfig
from serve_app.config.intake_config import IntakeConfig
from serve_app.deployments import OPEN_GATEWAY, demands
from serve_app.local.serving import NotEnoughResources, _deploy, _require_resources

PIPELINE = {
    "name": "logged",
    "pipeline": [{"name": "says", "class": "toys.Says", "params": {"answer": {"x": 1}}}],
}

MIB = 2**20


def require(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, float], *serve: dict[str, Any], intake: bool = False
) -> None:
    """Require what steps with these ``serve:`` blocks reserve of a machine that has this."""
    steps = [{"name": f"step_{n}", "class": "toys.Size", "serve": block} for n, block in enumerate(serve)]
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "memory": 4096.0 * MIB, **has})
    workers = IntakeConfig.model_validate({"queue": "sqlite:////q.db", "results": "file:///r"}) if intake else None
    _require_resources(demands(load_plan({"pipeline": steps}), OPEN_GATEWAY, workers))


@pytest.mark.parametrize(
    ("has", "serve", "message"),
    [
        (
            {},
            [{"num_gpus": 0.5}, {"num_gpus": 0.25}],
            "needs 0.75 GPU for step_0 (0.5 GPU), step_1 (0.25 GPU); this machine has 0 GPU",
        ),
        ({"GPU": 1}, [{"num_gpus": 2}], "needs 2 GPU for step_0 (2 GPU); this machine has 1 GPU"),
        ({"GPU": 2}, [{"num_gpus": 1}, {"num_gpus": 2}], "needs 3 GPU"),
        (
            {"GPU": 2},
            [{"num_gpus": 0.6, "num_replicas": 3}],
            "needs 1.8 GPU for step_0 (3 x 0.6 GPU); this machine has 2 GPU",
        ),
        ({"GPU": 1}, [{"num_gpus": 0.6, "autoscaling": {"min_replicas": 2, "max_replicas": 2}}], "needs 1.2 GPU"),
        ({}, [{"num_gpus": 1, "autoscaling": {"min_replicas": 0, "max_replicas": 2}}], "needs 1 GPU"),
        ({}, [{"memory_mb": 3000}, {"memory_mb": 3000}], "needs 6000 MiB of memory for step_0 (3000 MiB of memory), "),
        ({}, [{"resources": {"camera": 1}}], "needs 1 camera for step_0 (1 camera); this machine has 0 camera"),
        ({}, [{"num_gpus": 0.5, "colocate_with": "ingress"}], "needs 0.5 GPU for gateway (0.5 GPU)"),
    ],
)
def test_what_cannot_be_placed_is_named(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, float], serve: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(NotEnoughResources, match=re.escape(message)):
        require(monkeypatch, has, *serve)


def test_workers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotEnoughResources, match=re.escape("needs 1.2 GPU for gateway (0.6 GPU), worker (0.6 GPU)")):
        require(monkeypatch, {"GPU": 1}, {"num_gpus": 0.6, "colocate_with": "ingress"}, intake=True)


@pytest.mark.parametrize(
    ("has", "serve"),
    [
        ({}, [{"num_cpus": 16}, {"num_cpus": 16, "num_replicas": 4}]),  # logical ones: Ray is told of as many
        ({"GPU": 1}, [{"num_gpus": 0.1, "num_replicas": 10}]),
        ({"GPU": 1}, [{"num_gpus": 0.5}, {"num_gpus": 0.25, "autoscaling": {"min_replicas": 1, "max_replicas": 9}}]),
        ({"GPU": 3}, [{"num_gpus": 2}, {"num_gpus": 0.5, "num_replicas": 2}]),
        ({"GPU": 2}, [{"num_gpus": 0.4, "num_replicas": 4}]),
        ({}, [{"memory_mb": 4000}]),
        ({"camera": 1}, [{"resources": {"camera": 0.5}, "num_replicas": 2}]),
    ],
)
def test_what_can_be_placed(
    monkeypatch: pytest.MonkeyPatch, has: dict[str, float], serve: list[dict[str, Any]]
) -> None:
    require(monkeypatch, has, *serve)


def test_a_request_leaves_one_line(cluster: Any, poll: Callable[..., Any], tmp_path: Path) -> None:
    """The gateway's; Serve's own, for the request and for each call to a step, cost more than a small model."""
    from ray import serve

    file = tmp_path / "logged.yaml"
    file.write_text(yaml.dump(PIPELINE))
    _deploy(load_plan(file), GatewayConfig.model_validate({"auth": "none"}), None)
    try:
        headers = {"Content-Type": "image/png", "X-Request-Id": "abc"}
        for _ in range(3):
            httpx.post(f"{cluster.http_url}/v1/images", content=PNG, headers=headers).raise_for_status()
    finally:
        serve.delete("logged")

    def lines() -> list[str]:
        logs = (cluster.log_dir / "serve").glob("replica_logged_*.log")
        return [line for log in logs for line in log.read_text().splitlines()]

    poll(lambda: sum('"request_id": "abc"' in line for line in lines()) == 3)
    assert all(json.loads(line)["deployment"] == "gateway" for line in lines() if '"request_id"' in line)
    assert not [line for line in lines() if "CALL" in line]
    assert sum("POST /v1/images 200" in line for line in lines()) == 3
