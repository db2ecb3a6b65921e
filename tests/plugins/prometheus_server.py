"""A Prometheus of the test's own, on loopback."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml
from scrapes import prometheus

from serve_app.local.ports import free_port


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant vector, each with ``metric`` and ``value``."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def series(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """The series of a range, each with ``metric`` and ``values``."""
        parameters: dict[str, str | float] = {"query": expression, "start": start, "end": end, "step": step_s}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params=parameters, timeout=60).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@contextmanager
def running_prometheus(
    folder: Path, configuration: dict[str, Any], rules: dict[str, Any] | None = None, every: str = "1s"
) -> Iterator[Prometheus]:
    """Prometheus with a configuration as :mod:`serve_app.monitoring` writes it, but for how often it scrapes."""
    program, port = prometheus(), free_port()
    for config in configuration["scrape_configs"]:
        for discovery in config["file_sd_configs"]:
            discovery["refresh_interval"] = every
            # not the Ray of somebody else on this machine
            discovery["files"] = [file for file in discovery["files"] if not file.startswith("/tmp/ray/")]
    intervals = {"scrape_interval": every, "evaluation_interval": every}
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump({**configuration, "global": intervals, "rule_files": ["rules.yml"] if rules else []})
    )
    if rules:
        (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command = [program, *options, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    found = Prometheus(f"http://127.0.0.1:{port}")
    with (folder / "prometheus.log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            _wait_until_ready(found, process)
            yield found
        finally:
            process.terminate()


def _wait_until_ready(server: Prometheus, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(f"{server.url}/-/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise TimeoutError("Prometheus does not start")
