"""Deletion beside everything else that uses the store: whatever comes in between, nothing of the job is left."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest
from stored_bytes import calls_of, everything

from serve_app.images import Uploads, upload_address
from serve_app.results import JobMarker, Outcome, ResultStore, content_key, objects_from_uri
from serve_app.results.compaction import compact
from serve_app.results.deletion import delete_job, pending_deletions, purge
from serve_app.results.query import query
from serve_app.results.store import object_key

IMAGE = b"\x89PNG of the customer"
SHA = "5ec7e7" + "0" * 58
SECRET = "number-one-thousand"
FORBIDDEN = (IMAGE, SHA.encode(), SECRET.encode(), b"picture of the customer")


def succeeded(job_id: str, sha256: str, metadata: dict[str, str]) -> Outcome:
    result = {
        "id": job_id,
        "image": {"uri": None, "sha256": sha256, "width": 8, "height": 6},
        "pipeline": {"name": "demo", "fingerprint": "f"},
        "context": {},
        "steps": [],
        "metadata": metadata,
    }
    return Outcome(job_id, "succeeded", result)


class Store:
    """A store of results and images."""

    def __init__(self, root: str, options: str = "") -> None:
        below = f"{root}/{uuid.uuid4().hex}"
        self.objects, self.images = (objects_from_uri(f"{below}/{kind}{options}") for kind in ("results", "images"))

    @property
    def uploads(self) -> Uploads:
        return Uploads(self.images, 1000)

    async def fill(self) -> None:
        """Three jobs: two with an outcome in the journal, of which one has been compacted before; one that waits."""
        store = ResultStore(self.objects)
        for job_id in ("job-other", "job-gone", "job-waiting"):
            sha256 = "07" * 32 if job_id == "job-other" else SHA
            self.uploads.store_now(IMAGE if sha256 == SHA else b"other", sha256, "acme")
            metadata = {"customer": SECRET if job_id != "job-other" else "another"}
            await store.put_job(JobMarker(job_id, upload_address(sha256), metadata, owner="acme"))
            if job_id != "job-waiting":
                outcome = succeeded(job_id, sha256, metadata)
                await store.put_picture(job_id, b"picture of the customer" if sha256 == SHA else b"other")
                await store.keep(content_key(sha256, "f", {}), outcome.result or {})
                await store.finish(outcome)
                await store.journal([outcome])
        await store.close()

    def rows(self) -> list[str]:
        """The ids that a query finds."""
        return [row[0] for row in query(self.objects, "SELECT id FROM results ORDER BY id").rows]

    def delete(self, *, whole: bool = True) -> None:
        """Have the customer's jobs deleted; ``whole``: their rows too, as the command line does."""
        for job_id in ("job-gone", "job-waiting"):
            delete_job(self.objects, job_id, "somebody", self.uploads.delete)
        if whole:
            self.keep_in_order()

    def keep_in_order(self) -> None:
        """What a worker does every few minutes."""
        compact(self.objects)
        purge(self.objects, self.uploads.delete)

    def check(self) -> None:
        """Nothing of the customer is left, and everything of the others."""
        left = everything(self.objects, self.images)
        assert [word for word in FORBIDDEN if word in left] == []
        assert self.rows() == ["job-other"]
        assert left.count(b"other") > 3
        assert {deletion.id for deletion in pending_deletions(self.objects)} == {"job-gone", "job-waiting"}


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Makes empty stores."""
    if request.param == "folder":
        yield lambda: Store(str(tmp_path))
        return
    moto, bucket = request.getfixturevalue("moto"), f"deleted-{uuid.uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=moto, region_name="us-east-1").create_bucket(Bucket=bucket)
    yield lambda: Store(f"s3://{bucket}", f"?region=us-east-1&endpoint_url={moto}")


async def at_each_call(
    stores: Callable[[], Store], work: Callable[[Store], object], meanwhile: Callable[[Store], object]
) -> int:
    """Do ``work`` as often as it has calls; in each round ``meanwhile`` comes before another one of them. Returns how
    many there are."""
    number, last = 1, 0
    while True:
        store = stores()
        await store.fill()
        last = 0

        def before(call: int, store: Store = store, number: int = number) -> None:
            nonlocal last
            last = call
            if call == number:
                meanwhile(store)

        paused = copy.copy(store)
        paused.objects = calls_of(store.objects, before)
        work(paused)
        if last < number:
            return last
        assert store.rows() in (["job-other"], []), "a row of a deleted job was seen"  # [] until it is compacted
        store.keep_in_order()
        store.check()
        number += 1


async def test_deletion_at_each_call_of_compaction(stores: Callable[[], Store]) -> None:
    assert await at_each_call(stores, lambda store: compact(store.objects), Store.delete) > 8


@pytest.mark.slow
async def test_deletion_by_a_gateway_at_each_call_of_compaction(stores: Callable[[], Store]) -> None:
    """Which leaves the rows to the workers."""
    meanwhile = partial(Store.delete, whole=False)
    assert await at_each_call(stores, lambda store: compact(store.objects), meanwhile) > 8


async def test_compaction_at_each_call_of_a_deletion(stores: Callable[[], Store]) -> None:
    assert await at_each_call(stores, Store.delete, lambda store: compact(store.objects)) > 30


@pytest.mark.slow
async def test_another_purge_at_each_call_of_a_deletion(stores: Callable[[], Store]) -> None:
    """Among them: between the write of a file without the rows and the end of the one that reads it."""
    assert await at_each_call(stores, Store.delete, Store.keep_in_order) > 30


@pytest.mark.slow
async def test_the_end_of_a_worker_at_each_call_of_a_deletion(stores: Callable[[], Store]) -> None:
    """What it has begun before is written when the deletion is under way, or over."""

    def end(store: Store) -> None:
        outcome = succeeded("job-waiting", SHA, {"customer": SECRET})
        store.objects.put(object_key("pictures", "job-waiting", "jpg"), b"picture of the customer")
        if store.objects.create(object_key("outcomes", "job-waiting"), outcome.encode()):
            store.objects.put("journal/2026-01-01/late.jsonl", outcome.encode())
            kept = JobMarker("job-waiting", upload_address(SHA), owner="acme")
            store.objects.put(object_key("kept", "job-waiting"), kept.encode())
            store.uploads.store_now(IMAGE, SHA, "acme")

    assert await at_each_call(stores, Store.delete, end) > 30
