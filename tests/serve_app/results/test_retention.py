"""Retention: what goes, what stays, and that it can be interrupted."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serve_app.results import JobMarker, Objects, Outcome, ResultStore, StoreUnavailable, objects_from_uri
from serve_app.results.compaction import compact
from serve_app.results.deletion import delete_job
from serve_app.results.object_stores import ObjectInfo, uri_below
from serve_app.results.retention import PARTS, Ages, lifecycle_rules, sweep

DAY = timedelta(days=1)
AGES = Ages(images=7 * DAY, results=30 * DAY, failures=90 * DAY)


def succeeded(job_id: str) -> Outcome:
    image = {"uri": None, "sha256": "0" * 64, "width": 8, "height": 6}
    pipeline = {"name": "demo", "fingerprint": "f"}
    result = {"id": job_id, "image": image, "pipeline": pipeline, "context": {}, "steps": [], "metadata": {}}
    return Outcome(job_id, "succeeded", result)


async def fill(objects: Objects) -> None:
    store = ResultStore(objects)
    for ending in (succeeded("1"), Outcome("bad", "failed", error={"type": "X", "detail": "y"})):
        await store.put_job(JobMarker(ending.id, "s3://b/a.jpg"))
        await store.finish(ending)
        await store.put_picture(ending.id, b"jpeg")
    await store.put_job(JobMarker("job-never-ended", "s3://b/a.jpg"))
    await store.keep("0" * 64, {"a": 1})
    await store.journal([succeeded("1")])
    compact(objects)
    delete_job(objects, "2", "somebody", lambda _: None, only_known=False)
    await store.close()


def swept(objects: Objects, images: Objects, ages: Ages, days: float, *, dry_run: bool = False) -> Counter[str]:
    """A sweep, some days from now, of the parts that have objects, and of the first one."""
    parts = {part for key in objects.keys("") for part in key.split("/")[1:2]} & set(PARTS)
    return sweep(objects, images, ages, sorted(parts | {"00", "ab"}), now=at(days), dry_run=dry_run)


def at(days: float) -> datetime:
    return datetime.now(UTC) + days * DAY


def kinds(objects: Objects) -> set[str]:
    return {key.split("/")[0] for key in objects.keys("")} - {"compaction", "deletions"}


@pytest.fixture
def images(tmp_path: Path) -> Objects:
    images = objects_from_uri(str(tmp_path / "images"))
    for tenant in ("open", "t-acme"):
        images.put(f"{tenant}/ab/{'ab' * 32}", b"image")
    return images


async def test_each_kind_has_its_age(objects: Objects, images: Objects) -> None:
    await fill(objects)
    everything = {"jobs", "outcomes", "pictures", "content", "parquet"}
    assert kinds(objects) == everything
    assert swept(objects, images, AGES, 6) == {}
    found = swept(objects, images, AGES, 8, dry_run=True)
    assert (found, len(list(images.keys("")))) == ({"images": 2, "bytes": 10}, 2)
    assert swept(objects, images, AGES, 8) == found
    assert (list(images.keys("")), kinds(objects)) == ([], everything)
    found = swept(objects, images, AGES, 31)
    assert {kind: found[kind] for kind in ("results", "parquet", "content", "failures")} == {
        "results": 1, "parquet": 1, "content": 1, "failures": 0,
    }  # fmt: skip
    found = swept(objects, images, AGES, 91)
    assert (found["failures"], found["jobs"]) == (1, 2)  # its own marker, and that of the job that never ended
    assert kinds(objects) == {"outcomes"}  # the record of the job that was deleted


async def test_without_rules_nothing_goes(objects: Objects, images: Objects) -> None:
    await fill(objects)
    before = list(objects.keys(""))
    assert swept(objects, images, Ages(), 10_000) == {}
    assert list(objects.keys("")) == before


async def test_an_image_that_is_written_again_stays(
    objects: Objects, images: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and its deletion."""
    await fill(objects)
    listed, info, again = objects.entries, objects.info, dict[str, ObjectInfo]()

    def written_again(prefix: str) -> Iterator[ObjectInfo]:
        for item in list(listed(prefix)):
            if item.key.startswith("content/"):
                again[item.key] = replace(item, modified=item.modified + DAY)
            yield item

    monkeypatch.setattr(objects, "entries", written_again)
    monkeypatch.setattr(objects, "info", lambda key: again.get(key) or info(key))
    swept(objects, images, Ages(results=DAY), 2)
    assert list(objects.keys("content/"))


async def test_an_interrupted_run_is_continued(
    objects: Objects, images: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(objects)
    left = [3]
    delete = objects.delete

    def fails(key: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise StoreUnavailable("no answer")
        delete(key)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "delete", fails)
        with pytest.raises(StoreUnavailable):
            swept(objects, images, AGES, 91)
    swept(objects, images, AGES, 91)
    assert kinds(objects) == {"outcomes"}


def test_what_killed_writers_have_left_goes_without_rules(tmp_path: Path) -> None:
    """Half a write has the bytes of an image or of a result under another name, which no listing shows."""
    results = objects_from_uri(str(tmp_path / "results"))
    images = objects_from_uri(str(tmp_path / "results" / "images"))
    left = [f"{folder}/.{uuid.uuid4().hex}" for folder in ("outcomes/ab", "images/t-acme/ab", "journal/2026-01-01")]
    for name in left:
        results.put(name, b"secret")
    results.put("outcomes/ab/.note", b"of somebody else")
    assert swept(results, images, Ages(), 0.5 / 24) == {}
    assert swept(results, images, Ages(), 1.5 / 24) == {"unfinished": 3, "bytes": 18}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".note"]


def test_lifecycle_rules_name_what_s3_can_delete_itself() -> None:
    rules = lifecycle_rules("results/", "results/images/", Ages(images=7 * DAY, results=1.5 * DAY))["Rules"]
    assert {rule["Filter"]["Prefix"]: rule["Expiration"]["Days"] for rule in rules} == {
        "results/images/": 7,
        "results/content/": 2,
        "results/pictures/": 2,
        "results/parquet/": 2,
        "results/rejected/": 2,
    }
    assert uri_below("s3://b/results?region=x", "images") == "s3://b/results/images?region=x"
