"""What ``visiongraph serve`` deploys, on the shared cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml
from gateways import PNG

from serve_app.gateway_config import GatewayConfig
from serve_app.local import _deploy

PIPELINE = {
    "name": "logged",
    "pipeline": [{"name": "says", "class": "toys.Says", "params": {"answer": {"x": 1}}}],
}


def test_a_request_leaves_one_line(cluster: Any, poll: Callable[..., Any], tmp_path: Path) -> None:
    """The gateway's; Serve's own, for the request and for each call to a step, cost more than a small model."""
    from ray import serve

    file = tmp_path / "logged.yaml"
    file.write_text(yaml.dump(PIPELINE))
    _deploy(str(file), "logged", GatewayConfig.model_validate({"auth": "none"}), None)
    try:
        headers = {"Content-Type": "image/png", "X-Request-Id": "abc"}
        for _ in range(3):
            httpx.post(f"{cluster.http_url}/v1/images", content=PNG, headers=headers).raise_for_status()
    finally:
        serve.delete("logged")

    def lines() -> list[str]:
        logs = (cluster.log_dir / "serve").glob("replica_logged_*.log")
        return [line for log in logs for line in log.read_text().splitlines()]

    poll(lambda: sum('"request_id":"abc"' in line for line in lines()) == 3)
    assert not [line for line in lines() if "POST /v1/images 200" in line or "CALL" in line]
