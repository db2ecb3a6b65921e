"""The console script, as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]

Run = Callable[..., tuple[int, str, str]]


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command where nothing but this checkout is on the import path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=150, check=False
    )


def test_a_new_classifier_runs_at_once(visiongraph: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(sys, "path", [*sys.path])
    code, _, err = visiongraph("new", "classifier", "wheel_count")
    assert code == 0, err

    folder = tmp_path / "wheel_count"
    done = shell("pytest -p no:cacheprovider >&2 & visiongraph run pipeline.yaml photo.jpg && wait $!", folder)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line)["context"] == {"wheel_count": {"label": "bright", "confidence": 1.0}}
    names = {file.name for file in folder.iterdir() if file.is_file()}
    assert names == {"wheel_count.py", "test_wheel_count.py", "pipeline.yaml", "photo.jpg", "README.md"}
    pipeline = folder / "pipeline.yaml"
    assert yaml.safe_load(pipeline.read_text())["pipeline"][0]["class"] == "wheel_count.WheelCount"
    assert visiongraph("validate", pipeline)[0] == 0
    # replicas find the class too
    rendered = yaml.safe_load(visiongraph("render", pipeline)[1])
    paths = rendered["applications"][0]["runtime_env"]["env_vars"]["PYTHONPATH"].split(os.pathsep)
    assert paths == [str(ROOT), str(folder)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("wheel-count", "'wheel-count' cannot be the name of a Python module: .*; use 'wheel_count'"),
        ("WheelCount", "use 'wheel_count'"),
        ("class", "cannot be the name of a Python module"),
        ("../x", "cannot be the name"),
        ("json", "would hide the Python module 'json'"),
        ("there", "there already exists; choose another name, or delete it"),
    ],
)
def test_a_name_that_cannot_be_used(tmp_path: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from classifiers import SetupError
    from serve_app.cli.main import app

    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(app, ["new", "classifier", name])

    assert isinstance(result.exception, SetupError)
    assert pytest.raises(SetupError, match=message).matches(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
