"""The dashboard and Prometheus' configuration: what they ask for is there."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from scrapes import promtool
from typer.testing import CliRunner

from serve_app.cli.main import app
from serve_app.monitoring import monitoring_files
from serve_app.monitoring.dashboard import dashboard
from serve_app.monitoring.panels import ROWS
from serve_app.telemetry.exporting import ExportSettings
from serve_app.telemetry.metrics import METRICS

_ROOT = Path(__file__).parents[3]
EXPRESSIONS = [expression for row in ROWS.values() for panel in row for expression in panel.queries.values()]


def test_every_metric_is_on_the_dashboard_and_nothing_else() -> None:
    asked = {
        re.sub(r"_(total|bucket|sum|count)$", "", name)
        for expression in EXPRESSIONS
        for name in re.findall(r"\bvisiongraph_\w+", expression)
    }
    assert asked == {metric.describe()[0].name for metric in METRICS}


def test_the_guide_lists_every_metric_with_its_labels_and_no_other() -> None:
    listed: dict[str, set[str]] = {}
    for line in (_ROOT / "docs" / "monitoring.md").read_text().splitlines():
        if line.startswith("| `visiongraph_"):
            names, labels = line.split("|")[1:3]
            for name in re.findall(r"`(\w+)`", names):
                listed[name] = set(re.findall(r"`(\w+)`", labels))
    families = [(metric, metric.describe()[0]) for metric in METRICS]
    assert listed == {
        family.name + ("_total" if family.type == "counter" else ""): set(metric._labelnames)
        for metric, family in families
    }


def test_every_question_of_the_operator_has_a_row() -> None:
    titles = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert titles == [
        "Is it serving?",
        "What is slow?",
        "What does the graph decide?",
        "Is it keeping up?",
        "What does it cost?",
    ]


def test_panels_do_not_overlap() -> None:
    taken: Counter[tuple[int, int]] = Counter()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                taken[x, y] += 1
        assert place["x"] + place["w"] <= 24
    assert set(taken.values()) == {1}


def test_ids_of_panels_and_queries_are_unique() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        queries = [query["refId"] for query in panel.get("targets", ())]
        assert len(set(queries)) == len(queries)


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    replaced = [e.replace("$__rate_interval", "5m").replace("$application", ".*") for e in EXPRESSIONS]
    rules = [{"record": f"panel:{n}:now", "expr": expression} for n, expression in enumerate(replaced)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [promtool(), "check", "rules", "panels.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["metrics", str(tmp_path / "new" / "folder")])
    assert done.exit_code == 0, done.output
    command = [promtool(), "check", "config", str(tmp_path / "new" / "folder" / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "SUCCESS: 1 rule files found" in checked.stdout


def test_the_files_of_the_repository_are_what_the_command_writes() -> None:
    default = ExportSettings.model_fields["folder"].default
    written = {
        str(path.relative_to(_ROOT / "configs" / "monitoring")): path.read_text()
        for path in (_ROOT / "configs" / "monitoring").rglob("*")
        if path.is_file()
    }
    assert written == monitoring_files(default), "write them again: visiongraph metrics configs/monitoring"


def test_the_command_promises_what_the_rules_do(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["metrics", str(tmp_path)], catch_exceptions=False)
    assert (tmp_path / "alerts.yml").read_text() == monitoring_files(tmp_path)["alerts.yml"]


def test_the_folder_of_the_environment_is_where_prometheus_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISIONGRAPH_METRICS_DIR", "/run/street")
    CliRunner().invoke(app, ["metrics", str(tmp_path)], catch_exceptions=False)
    jobs = {job["job_name"]: job for job in yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]}
    assert jobs["visiongraph"]["file_sd_configs"][0]["files"] == ["/run/street/process-*.json"]
    assert jobs["ray"]["file_sd_configs"][0]["files"][0] == "/run/street/ray-*.json"


def test_the_options_are_the_promises_of_the_alerts(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["metrics", str(tmp_path), "--oldest-message-s", "42"], catch_exceptions=False)
    assert "> 42" in (tmp_path / "alerts.yml").read_text()


def test_grafana_gets_json() -> None:
    (text,) = (text for name, text in monitoring_files(Path("/m")).items() if name.endswith(".json"))
    assert json.loads(text) == dashboard()
