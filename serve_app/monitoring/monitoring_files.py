"""The files that ``visiongraph metrics`` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from serve_app.monitoring.alerts import Promises, alert_rules
from serve_app.monitoring.dashboard import dashboard
from serve_app.telemetry.exporting import RAY_TARGETS, TARGETS

__all__ = ["monitoring_files"]

_RAY_DEFAULT = "/tmp/ray/prom_metrics_service_discovery.json"  # noqa: S108 - Ray's name
_REFRESH = "15s"

_DROPPED = "ray_serve_(handle|long_poll|router|request_router|event_loop|num_router|num_scheduling)_.*"
"""Ray's series with a label for each handle or caller: their number grows with every replica that was replaced."""


def monitoring_files(folder: Path, promises: Promises | None = None) -> dict[str, str]:
    """The text of each file, by its path below the folder to write to.

    Args:
        folder: where the processes of this node announce themselves.
        promises: what alerts are about.
    """
    return {
        "prometheus.yml": _yaml(_prometheus(folder)),
        "alerts.yml": _yaml(alert_rules(promises)),
        "grafana/dashboards/visiongraph.json": json.dumps(dashboard(), indent=1) + "\n",
        "grafana/provisioning/dashboards/visiongraph.yml": _yaml(_dashboard_provider()),
        "grafana/provisioning/datasources/prometheus.yml": _yaml(_datasource()),
    }


def _prometheus(folder: Path) -> dict[str, Any]:
    def found(*files: str) -> list[dict[str, Any]]:
        return [{"files": list(files), "refresh_interval": _REFRESH}]

    return {
        "global": {"scrape_interval": "15s", "evaluation_interval": "15s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [
            {"job_name": "visiongraph", "file_sd_configs": found(str(folder / TARGETS))},
            {
                "job_name": "ray",
                "file_sd_configs": found(str(folder / RAY_TARGETS), _RAY_DEFAULT),
                "metric_relabel_configs": [
                    {"source_labels": ["__name__"], "regex": _DROPPED, "action": "drop"},
                ],
            },
        ],
    }


def _dashboard_provider() -> dict[str, Any]:
    options = {"path": "/var/lib/grafana/dashboards"}
    return {"apiVersion": 1, "providers": [{"name": "visiongraph", "type": "file", "options": options}]}


def _datasource() -> dict[str, Any]:
    source = {"name": "Prometheus", "type": "prometheus", "url": "http://localhost:9090", "isDefault": True}
    return {"apiVersion": 1, "datasources": [source]}


def _yaml(content: dict[str, Any]) -> str:
    return "# Written by `visiongraph metrics`.\n" + yaml.safe_dump(content, sort_keys=False, width=200)
