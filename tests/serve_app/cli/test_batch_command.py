"""``visiongraph batch`` as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bulk_runs import failures, rows
from soak.steps import picture
from typer.testing import CliRunner

from serve_app.cli.main import app

PIPELINE = "name: toy\npipeline:\n  - {name: one, class: soak.steps.One}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text(PIPELINE)
    (tmp_path / "photos").mkdir()
    for number in range(40):
        (tmp_path / "photos" / f"{number:02d}.png").write_bytes(picture(number) if number != 7 else b"no image")
    return tmp_path


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-c", "from serve_app.cli import main; main()", "batch", "toy.yaml", "photos"]
    return subprocess.Popen(
        [*program, "--out", "out", *more],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_ctrl_c_and_the_same_command_again(folder: Path, poll: Callable[..., object]) -> None:
    first = start(folder, "--chunk-size", "2", "--in-flight", "1")
    poll(lambda: first.poll() is not None or list(folder.rglob("done/*.json")), 300)
    os.killpg(first.pid, signal.SIGINT)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 1, said
    assert "the same command continues" in said
    assert "Traceback" not in said
    done = len(list(folder.rglob("done/*.json")))
    assert 0 < done < 20

    second = start(folder, "--chunk-size", "2")
    printed, said = second.communicate(timeout=150)
    assert second.returncode == 0, said
    assert "BadImage" in printed
    assert len(rows(folder / "out")) == 39
    assert len(failures(folder / "out")) == 1
    manifest = json.loads((folder / "out" / "manifest.json").read_text())
    assert (manifest["images"], manifest["succeeded"], manifest["failed"]) == (40, 39, 1)
    # Ray's core says that of every pool of actors of Ray Data, and that cannot be switched off
    rest = [line for line in said.splitlines() if "has constructor arguments in the object store" not in line]
    assert not [line for line in rest if "ray" in line.lower()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["toy.yaml", "photoz", "--out", "out"], "there are no images at"),
        (["toy.yaml", "photos", "--out", "ftp://host/x"], "results cannot be kept at ftp://"),
        (["toy.yaml", "photos", "--out", "out", "--max-failures", "many"], "not a number or percentage"),
        (["toy.yaml", "photos", "--out", "out", "--max-failures", "150%"], "not a number or percentage"),
        (["toy.yaml", "photos", "--out", "out", "--metadata", "[1]"], "must be a JSON object"),
        (["nowhere.yaml", "photos", "--out", "out"], "nowhere.yaml"),
    ],
)
def test_mistakes_are_told_before_ray_starts(
    arguments: list[str], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    began = time.monotonic()
    result = CliRunner().invoke(app, ["batch", *arguments])
    assert result.exit_code != 0
    assert said in f"{result.output} {result.exception}"
    assert time.monotonic() - began < 20
