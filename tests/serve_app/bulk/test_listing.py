"""Chunks of what the sources have: in the same order each time, continued where a listing was interrupted."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from bulk_runs import InProcess, make_job, rows
from toys import draw, encoded

from serve_app.bulk.ledger import PipelineChanged, begin_run
from serve_app.bulk.sources import NoSource, open_sources
from serve_app.config import SourcesConfig
from serve_app.results import objects_from_uri

PIPELINE: dict[str, Any] = {"name": "toy", "pipeline": [{"name": "size", "class": "toys.Size"}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for name in ("b/2.png", "b/10.png", "b.png", "a/x/1.png", "a.png", "c\xff.png", "c/notes.txt", "._a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(draw(size=(8, 8))))
    (folder / "d").symlink_to(folder / "b")
    (folder / "e.png").symlink_to(folder / "nowhere")
    return folder


def listed(command: InProcess, number: int) -> list[str]:
    return [uri.rpartition("images/")[2] for uri, _, _ in command.ledger.chunk(number)["images"]]


def command(folder: Path, out: Path, **more: Any) -> InProcess:
    return InProcess(make_job(PIPELINE, [str(folder)], out), [str(folder)], **more)


ORDER = ["a.png", "a/x/1.png", "b.png", "b/10.png", "b/2.png", "c%C3%BF.png", "e.png"]


def test_a_folder_is_listed_in_order(folder: Path, tmp_path: Path) -> None:
    run = command(folder, tmp_path / "out", chunk_size=3)
    assert run.numbers() == [0, 1, 2]
    assert [name for number in range(3) for name in listed(run, number)] == ORDER
    assert run.ledger.listing() == {"chunks": 3, "images": 7, "known": 0}


@pytest.mark.parametrize("recorded", [0, 1, 2])
def test_a_listing_goes_on_after_the_last_chunk_that_is_recorded(recorded: int, folder: Path, tmp_path: Path) -> None:
    run = command(folder, tmp_path / "out", chunk_size=2)
    numbers = run.numbers()
    for file in sorted((tmp_path / "out" / "batch").rglob("chunks/*.json"))[recorded:]:
        file.unlink()
    next((tmp_path / "out" / "batch").rglob("listing.json")).unlink()
    (folder / "a0.png").write_bytes(b"")  # between images that are listed already, or not
    assert run.numbers() == numbers
    found = [name for number in numbers for name in listed(run, number)]
    assert [name for name in found if name != "a0.png"] == ORDER
    assert ("a0.png" in found) == (recorded < 2)


def test_images_with_a_result_are_left_out_until_they_change(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command(folder, out).all()
    assert len(rows(out)) == 6  # the link leads nowhere
    again = command(folder, out, skip_known=True)
    assert [listed(again, number) for number in again.numbers()] == [["e.png"]]
    again.all()
    (folder / "new.png").write_bytes(encoded(draw(size=(9, 9))))
    os.utime(folder / "b.png", (time.time() + 5, time.time() + 5))
    third = command(folder, out, skip_known=True)
    assert [listed(third, number) for number in third.numbers()] == [["b.png", "e.png", "new.png"]]


def test_an_unfinished_run_of_another_pipeline_is_not_continued(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path))
    run = begin_run(objects, "toy", ["photos"], "one", restart=False)
    assert begin_run(objects, "toy", ["photos"], "one", restart=False) == run
    assert begin_run(objects, "toy", ["others"], "two", restart=False).name != run.name
    with pytest.raises(PipelineChanged, match="--restart"):
        begin_run(objects, "toy", ["photos"], "two", restart=False)
    assert begin_run(objects, "toy", ["photos"], "two", restart=True).attempt == 2


def test_a_restart_removes_what_the_unfinished_run_has_written(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = command(folder, out, chunk_size=2)
    run.chunk(run.numbers()[0])
    assert len(rows(out)) == 2
    begin_run(run.ledger.objects, "toy", [str(folder)], run.run.fingerprint, restart=True)
    assert rows(out) == {}


@pytest.mark.parametrize(
    "source", ["", "nowhere/", "*.nothing", "https://host/a.jpg", "nowhere.csv", "https://host/a.csv"]
)
def test_what_names_nothing_is_an_error(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoSource, match="give a folder, a glob"):
        open_sources([source], SourcesConfig())


def test_a_table_without_addresses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,x\na.jpg,1\n")
    [source] = open_sources([str(tmp_path / "list.csv")], SourcesConfig())
    with pytest.raises(NoSource, match="it has path, x"):
        list(source.entries())


def test_files_that_a_shell_lists_are_one_source(folder: Path) -> None:
    [source] = open_sources([str(folder / "a.png"), str(folder / "b.png")], SourcesConfig())
    assert [entry.uri.rpartition("/")[2] for entry in source.entries("0")] == ["b.png"]
