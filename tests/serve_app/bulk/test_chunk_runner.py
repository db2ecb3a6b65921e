"""Chunks in one process: the results are those of the same file in process, and one image ends no other."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bulk_runs import InProcess, failures, make_job, rows
from soak.steps import picture
from toys import draw, encoded

from graph import VisionPipeline

STREET = draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150), ("person", 200, 20, 240, 100))
IMAGES = {
    "a.png": encoded(STREET),
    "b.jpg": encoded(STREET, "JPEG"),
    "c.jpg": encoded(STREET, "JPEG")[:600],
    "d.png": encoded(draw()),
    "e.png": b"no image",
    "f.png": encoded(STREET[:1, :1]),
}

PIPELINE: dict[str, Any] = {
    "name": "everything",
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {"name": "second_root", "class": "toys.Size"},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect", "serve": {"colocate_with": "detect"}},
        {
            "name": "car_size",
            "class": "toys.Size",
            "depends_on": "detect",
            "condition": "'car' in context['detect']['detected_classes']",
            "crops": "detection['class_name'] == 'car'",
        },
        {"name": "whole", "class": "toys.Size", "depends_on": ["detect", "colour"]},
        {"name": "failing", "class": "toys.Failing", "depends_on": "detect", "crops": "True"},
        {"name": "after_failing", "class": "toys.Size", "depends_on": "failing"},
        {
            "name": "by_metadata",
            "class": "toys.Size",
            "depends_on": "detect",
            "condition": "image['metadata']['x'] > 1",
        },
        {"name": "late", "class": "toys.Sleeper", "params": {"seconds": 0.3}, "depends_on": "detect", "timeout_ms": 50},
    ],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)
    return folder


def same(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """The row says what the result in process says."""
    assert json.loads(row["context"]) == expected["context"]
    assert json.loads(row["metadata"]) == expected["metadata"]
    assert (row["sha256"], row["width"], row["height"]) == tuple(
        expected["image"][key] for key in ("sha256", "width", "height")
    )
    assert (row["pipeline"], row["fingerprint"]) == tuple(expected["pipeline"].values())
    ends = [(step["name"], step["status"], step.get("reason")) for step in expected["steps"]]
    assert [(step["name"], step["status"], step["reason"]) for step in row["steps"]] == ends


def test_gives_what_the_same_file_gives_in_process(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    InProcess(make_job(PIPELINE, [str(folder)], out, metadata={"x": 2}), [str(folder)]).all()
    found, failed = rows(out), failures(out)
    with VisionPipeline(PIPELINE) as local:
        for name, data in IMAGES.items():
            uri = (folder / name).as_uri()
            [expected] = local.stream([data], metadata={"x": 2})
            if isinstance(expected, Exception):
                assert failed.pop(uri)["type"] == type(expected).__name__
            else:
                same(found.pop(uri), expected)
    assert not found
    assert not failed


@pytest.mark.parametrize(("rule", "kept"), [("never", ""), ("failed", "abdf"), ("always", "abdf")])
def test_images_are_kept_for_labelling(rule: str, kept: str, folder: Path, tmp_path: Path) -> None:
    """Of those that can be opened; ``late`` times out on each."""
    out = tmp_path / "out"
    InProcess(make_job(PIPELINE, [str(folder)], out, metadata={"x": 2}, keep_images=rule), [str(folder)]).all()
    images = {path.name: path.read_bytes() for path in (out / "images").rglob("*") if path.is_file()}
    wanted = [data for name, data in IMAGES.items() if name[0] in kept]
    assert images == {hashlib.sha256(data).hexdigest(): data for data in wanted}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_rows_of_a_table_bring_their_metadata(kind: str, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / f"list.{kind}"
    if kind == "parquet":
        columns = {"bytes": list(IMAGES.values()), "x": [3, 2, 1, 0, -1, None]}
        pq.write_table(pa.table(columns), table, row_group_size=4)
    else:
        lines = [f"{folder / name},{3 - index}" for index, name in enumerate(IMAGES)]
        table.write_text("\n".join(["uri,x", *lines]))
    out = tmp_path / "out"
    InProcess(make_job(PIPELINE, [str(table)], out), [str(table)], chunk_size=2).all()
    uris = [f"{table.as_uri()}#{n}" if kind == "parquet" else (folder / name).as_uri() for n, name in enumerate(IMAGES)]
    found = rows(out)
    with VisionPipeline(PIPELINE) as local:
        for index, name in ((0, "a.png"), (1, "b.jpg"), (3, "d.png")):
            same(found[uris[index]], local.run(IMAGES[name], metadata={"x": 3 - index}))
    assert set(failures(out)) == {uris[2], uris[4]}


def test_addresses_in_tables_need_a_rule(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "lists" / "list.csv"
    table.parent.mkdir()
    table.write_text(f"uri\n{folder / 'a.png'}\nhttp://127.0.0.1/a.png\ns3://photos/a.png\n")
    InProcess(make_job(PIPELINE, [str(table)], tmp_path / "out"), [str(table)]).all()
    assert {failure["type"] for failure in failures(tmp_path / "out").values()} == {"Forbidden"}


def test_a_chunk_that_is_done_is_not_run_again(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "calls"
    pipeline = {"pipeline": [{"name": "sleep", "class": "toys.Sleeper", "params": {"log": str(log)}}]}
    command = InProcess(make_job(pipeline, [str(folder)], tmp_path / "out"), [str(folder)], chunk_size=3)
    assert command.numbers() == [0, 1]
    first = command.chunk(0)
    calls = log.read_text()
    assert command.chunk(0) == first
    assert log.read_text() == calls
    assert command.chunk(1)["images"] == 3


RUN = """
import os, sys
from pathlib import Path
from bulk_runs import InProcess, make_job
images, out = sys.argv[1:]
pipeline = {"name": "bad", "pipeline": [{"name": "one", "class": "soak.steps.One"}]}
job = make_job(pipeline, [images], Path(out), timeout_s=1.0, least_stuck_s=1.0)
InProcess(job, [images]).all()
os._exit(0)  # as Ray ends its workers: at a regular end the threads of the models may crash the interpreter
"""


@pytest.mark.parametrize(
    "bad", ["exits", pytest.param("segmentation fault", marks=pytest.mark.slow), "hangs", "holds the interpreter"]
)
def test_an_image_that_ends_the_process_becomes_a_failure(bad: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number:02d}.png").write_bytes(picture(number, bad if number == 5 else None))
    program = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ends = []
    while not ends or (ends[-1] != 0 and len(ends) < 6):  # as Ray does
        done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
        ends.append(done.returncode)
    assert ends[-1] == 0, done.stderr
    assert len(ends) <= 4
    assert list(failures(tmp_path / "out")) == [(folder / "05.png").as_uri()]
    assert len(rows(tmp_path / "out")) == 11


CLOSED = """
import io, sys, time
from pathlib import Path
from bulk_runs import make_job
from serve_app.bulk.chunk_runner import ChunkRunner
images, out = sys.argv[1:]
pipeline = {"name": "one", "pipeline": [{"name": "one", "class": "soak.steps.One"}]}
sys.stderr = io.StringIO()
for _ in range(2):
    with ChunkRunner(make_job(pipeline, [images], Path(out), timeout_s=0.2, least_stuck_s=0.2)) as runner:
        assert "fingerprint" in runner.check()
time.sleep(1.5)  # longer than a model may be stuck
print("lives", flush=True)
"""


def test_a_process_lives_on_when_the_runner_is_closed(tmp_path: Path) -> None:
    program = [sys.executable, "-c", CLOSED, str(tmp_path), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "lives\n", done.stderr


def test_a_process_that_is_killed_from_outside_costs_no_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture(number))
    pipeline = {"pipeline": [{"name": "one", "class": "soak.steps.One"}]}
    sources = [str(tmp_path / "images")]
    command = InProcess(make_job(pipeline, sources, tmp_path / "out"), sources)
    [number] = command.numbers()
    begun = command.ledger.begun(number)
    begun.session, begun.alone = "one", 2  # as a process leaves it that is killed while it runs the third image alone
    command.ledger.put_begun(number, begun)
    assert command.chunk(number, "one")["failed"] == 0
