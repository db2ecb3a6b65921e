from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serve_app.results import BadResultsUri, Objects, StoreUnavailable, objects_from_uri


def test_written_read_listed_deleted(objects: Objects) -> None:
    assert objects.get("a/b.json") is None
    objects.put("a/b.json", b"1")
    objects.put("a/b.json", b"2")
    objects.put("a/c d/ü.json", b"3")
    objects.put("b/x.json", b"4")
    assert objects.get("a/b.json") == b"2"
    assert objects.get("a/c d/ü.json") == b"3"
    assert list(objects.keys("a/")) == ["a/b.json", "a/c d/ü.json"]
    objects.delete("a/b.json")
    objects.delete("a/b.json")
    assert list(objects.keys("a/")) == ["a/c d/ü.json"]
    assert list(objects.keys("none/")) == []


def test_of_many_who_create_one_wins(objects: Objects) -> None:
    with ThreadPoolExecutor(12) as threads:
        won = list(threads.map(lambda n: objects.create("outcomes/x.json", f"{n}".encode()), range(24)))
    assert won.count(True) == 1
    assert objects.get("outcomes/x.json") == f"{won.index(True)}".encode()
    assert list(objects.keys("outcomes/")) == ["outcomes/x.json"]


def test_what_a_killed_writer_leaves_is_never_seen(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path))
    pid = os.fork()
    if pid == 0:  # dies between writing the bytes and giving them their name
        os.link = lambda *_, **__: os._exit(9)
        objects.create("outcomes/x.json", b"half")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert objects.get("outcomes/x.json") is None
    assert list(objects.keys("outcomes/")) == []
    assert objects.create("outcomes/x.json", b"whole")
    assert list(objects.keys("outcomes/")) == ["outcomes/x.json"]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is synced and named, in its order."""
    happened: list[str] = []
    fsync, link, rename = os.fsync, os.link, os.rename

    def note_sync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        happened.append(f"sync {path.name if path.is_dir() else 'file'}")
        fsync(descriptor)

    def note(what: str, call: Callable[..., None]) -> Callable[..., None]:
        def noted(*paths: Any, **more: Any) -> None:
            happened.append(what)
            call(*paths, **more)

        return noted

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "link", note("name", link))
    monkeypatch.setattr(os, "rename", note("name", rename))
    return happened


@pytest.mark.parametrize("write", ["put", "create"])
def test_file_and_folders_are_synced_before_a_write_counts(tmp_path: Path, write: str, disk: list[str]) -> None:
    objects = objects_from_uri(str(tmp_path / "results"))
    getattr(objects, write)("outcomes/ab/x.json", b"1")
    assert disk == [
        f"sync {tmp_path.name}",
        "sync results",
        "sync outcomes",
        "sync file",
        "name",
        "sync ab",
    ]
    disk.clear()
    getattr(objects, write)("outcomes/ab/y.json", b"1")
    assert disk == ["sync file", "name", "sync ab"]


def test_what_another_has_just_written_is_synced_before_it_counts(tmp_path: Path, disk: list[str]) -> None:
    objects = objects_from_uri(str(tmp_path))
    objects.create("ab/x.json", b"1")
    disk.clear()
    assert not objects.create("ab/x.json", b"2")
    assert disk == ["sync ab"]


def test_a_folder_that_was_removed_is_made_again(tmp_path: Path) -> None:
    objects = objects_from_uri(str(tmp_path / "none/yet/results"))
    objects.put("ab/x.json", b"1")
    shutil.rmtree(tmp_path / "none")
    assert objects.create("ab/x.json", b"2")
    assert objects.get("ab/x.json") == b"2"


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "results").write_bytes(b"a file")
    objects = objects_from_uri(str(tmp_path / "results"))
    for call in (objects.put, objects.create):
        with pytest.raises(StoreUnavailable, match=r"folder .* cannot be used"):
            call("ab/x.json", b"1")


@pytest.mark.parametrize("uri", ["gopher://x/y", "s3:///prefix", "s3://bucket/x?colour=red", "gs://bucket/x?region=eu"])
def test_a_uri_that_means_nothing_is_refused(uri: str) -> None:
    with pytest.raises(BadResultsUri):
        objects_from_uri(uri)


def test_a_bucket_that_is_not_there_is_said(moto: str) -> None:
    objects = objects_from_uri(f"s3://nowhere/x?region=eu-west-1&endpoint_url={moto}")
    with pytest.raises(BadResultsUri, match="no bucket for the results at s3://nowhere"):
        objects.put("a", b"")


def test_a_store_that_does_not_answer_is_unavailable(moto: str) -> None:
    objects = objects_from_uri("s3://bucket?region=eu-west-1&endpoint_url=http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable):
        objects.get("a")
