from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
