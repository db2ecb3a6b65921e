"""Whole runs on Ray Data."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from bulk_runs import actors, failures, make_job, rows
from soak.steps import picture

from serve_app.bulk.ledger import PipelineChanged
from serve_app.bulk.running import BulkRun, Settings, TooManyFailures
from serve_app.bulk.sources import NoSource

pytestmark = pytest.mark.usefixtures("cluster")

PIPELINE: dict[str, Any] = {"name": "bulk", "pipeline": [{"name": "one", "class": "soak.steps.One"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02d}.png").write_bytes(picture(number) if number % 20 else b"no image")
    return folder


def run(folder: Path, out: Path, pipeline: dict[str, Any] = PIPELINE, **settings: Any) -> BulkRun:
    job = make_job(pipeline, [str(folder)], out)
    return BulkRun(job, [str(folder)], Settings(**{"in_flight": 1, "chunk_size": 10, **settings}))


def test_a_run_that_is_broken_off_continues(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    states = run(folder, out).chunks()
    while next(states).chunks < 2:
        pass
    states.close()  # type: ignore[attr-defined]
    done = {file.name: file.stat().st_mtime_ns for file in out.rglob("done/*.json")}
    second = run(folder, out)
    state = list(second.chunks())[-1]
    assert {name: mtime for name, mtime in _done(out).items() if name in done} == done
    assert (state.images, state.failed, state.chunks, state.total) == (60, 3, 6, 60)
    assert state.new <= 60 - 10 * len(done)
    assert len(rows(out)) == 57
    assert {failure["type"] for failure in failures(out).values()} == {"BadImage"}
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["images"], manifest["succeeded"], manifest["failed"]) == (60, 57, 3)
    assert manifest["steps"]["one"]["ok"] == 57
    assert {row["fingerprint"] for row in rows(out).values()} == {manifest["pipeline"]["fingerprint"]}


def _done(out: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in out.rglob("done/*.json")}


def test_too_many_failures_stop_it_and_a_changed_pipeline_does_not_continue_it(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(TooManyFailures, match=r"1 x BadImage: .*"):
        for _ in run(folder, out, max_failures=0).chunks():
            pass
    changed = {"name": "bulk", "pipeline": [{"name": "one", "class": "soak.steps.Other"}]}
    with pytest.raises(PipelineChanged, match="--restart"):
        next(run(folder, out, changed).chunks())


@pytest.mark.slow
def test_actors_that_are_killed_cost_no_image(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    states = run(folder, out, in_flight=2).chunks()
    next(states)
    next(states)
    killed = actors(psutil.Process())
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    for _ in states:
        pass
    assert len(rows(out)) == 57
    assert len(failures(out)) == 3


def test_a_pipeline_that_does_not_load_and_a_source_without_images(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = {"name": "bulk", "pipeline": [{"name": "one", "class": "soak.steps.Broken"}]}
    with pytest.raises(Exception, match="the model is missing"):
        next(run(tmp_path / "empty", tmp_path / "out", broken).chunks())
    with pytest.raises(NoSource, match="there are no images in"):
        list(run(tmp_path / "empty", tmp_path / "out").chunks())


def test_a_sample_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    total, counts = run(folder, tmp_path / "out").sample(7)
    assert (total, counts["images"]) == (60, 7)
    assert counts["seconds"] > 0
    assert not (tmp_path / "out").exists()
