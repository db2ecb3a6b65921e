"""Each process announces its metrics, and takes the announcement back, or the next process does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from scrapes import promtool

from classifiers import SetupError
from serve_app.telemetry.exporting import Exporter, ExportSettings, export, ray_announced, sweep, targets
from serve_app.telemetry.metrics import GATEWAY_REFUSALS, METRICS

LABELS = {"application": "street", "deployment": "gateway", "replica": "r1"}

_PROCESS = """
import sys, time
from pathlib import Path
from serve_app.telemetry.exporting import Exporter, ExportSettings
Exporter(ExportSettings(folder=Path(sys.argv[1])), {"application": "street"})
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def settings(tmp_path: Path) -> ExportSettings:
    return ExportSettings(folder=tmp_path / "metrics")


def test_prometheus_finds_the_process_by_its_file(settings: ExportSettings) -> None:
    exporter = Exporter(settings, LABELS)
    (file,) = settings.folder.iterdir()
    assert json.loads(file.read_text()) == [{"targets": [exporter.target], "labels": LABELS}]
    assert file.match("process-*.json")
    assert targets(settings.folder, "street") == [exporter.target]
    assert targets(settings.folder, "another") == []
    text = httpx.get(f"http://{exporter.target}/metrics").text
    assert "# TYPE visiongraph_images_total counter" in text
    assert "process_cpu_seconds_total" in text
    exporter.close()
    assert list(settings.folder.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{exporter.target}/metrics")


def test_the_names_and_types_are_as_prometheus_wants_them(settings: ExportSettings) -> None:
    exporters = [Exporter(settings, LABELS) for _ in range(2)]  # a second one repeats no series
    text = httpx.get(f"http://{exporters[0].target}/metrics").text
    for exporter in exporters:
        exporter.close()
    done = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_series_tells_when_another_was_made(settings: ExportSettings) -> None:
    GATEWAY_REFUSALS.labels("malformed")
    exporter = Exporter(settings, LABELS)
    for accept in ("text/plain", "application/openmetrics-text; version=1.0.0"):
        assert "_created" not in httpx.get(f"http://{exporter.target}/metrics", headers={"Accept": accept}).text
    exporter.close()


def test_a_process_that_was_killed_is_removed_by_the_next_one(
    settings: ExportSettings, poll: Callable[..., Any]
) -> None:
    command = [sys.executable, "-c", _PROCESS, str(settings.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (lives,) = targets(settings.folder, "street")
        sweep(settings.folder)
        assert targets(settings.folder, "street") == [lives], "of a process that lives"
        process.send_signal(signal.SIGKILL)
    exporter = Exporter(settings, LABELS)
    assert targets(settings.folder, "street") == [exporter.target]
    exporter.close()


def test_rays_own_metrics_are_found_in_the_same_folder(settings: ExportSettings, tmp_path: Path) -> None:
    rays = tmp_path / "ray.json"
    rays.write_text("[]")
    with ray_announced(settings.folder, rays):
        (link,) = settings.folder.glob("ray-*.json")
        assert link.resolve() == rays
    assert list(settings.folder.iterdir()) == []


def test_the_environment_says_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VISIONGRAPH_METRICS_DIR", str(tmp_path))
    monkeypatch.setenv("VISIONGRAPH_METRICS_HOST", "127.0.0.2")
    assert ExportSettings.from_environment() == ExportSettings(folder=tmp_path, host="127.0.0.2")
    monkeypatch.delenv("VISIONGRAPH_METRICS_HOST")
    assert ExportSettings.from_environment().host == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("VISIONGRAPH_METRICS_HOST", host)
    with pytest.raises(SetupError, match="VISIONGRAPH_METRICS_HOST must be the address of this node"):
        ExportSettings.from_environment()


def test_an_address_of_another_machine_is_refused(settings: ExportSettings) -> None:
    with pytest.raises(SetupError, match=r"metrics cannot be served at 192.0.2.1: .*; set VISIONGRAPH_METRICS_HOST"):
        Exporter(settings.model_copy(update={"host": "192.0.2.1"}), LABELS)


def test_a_folder_that_cannot_be_used_costs_only_the_metrics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VISIONGRAPH_METRICS_DIR", str(tmp_path / "file"))
    assert export(LABELS) is None
    assert "set VISIONGRAPH_METRICS_DIR to a folder of your own" in caplog.text


def test_a_folder_of_another_user_is_not_used(monkeypatch: pytest.MonkeyPatch, settings: ExportSettings) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(SetupError, match="it belongs to another user"):
        Exporter(settings, LABELS)


def test_labels_are_bounded() -> None:
    names = {name for metric in METRICS for name in metric._labelnames}
    allowed = {"pipeline", "source", "outcome", "step", "phase", "status", "rule", "class", "reason", "queue", "state"}
    assert names == allowed
