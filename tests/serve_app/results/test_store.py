from __future__ import annotations

import asyncio

from serve_app.results import JobMarker, Objects, Outcome, ResultStore, content_key


async def test_a_job_from_queued_to_succeeded(objects: Objects) -> None:
    store = ResultStore(objects)
    assert await store.status("job/1 ü") is None
    await store.create_job(JobMarker("job/1 ü", "s3://b/k", {"site": 7}, owner="ann"))
    status = await store.status("job/1 ü")
    assert status is not None
    assert (status.status, status.marker and status.marker.owner) == ("queued", "ann")
    await store.mark_running("job/1 ü")
    status = await store.status("job/1 ü")
    assert status is not None
    assert status.status == "running"
    await store.finish(Outcome("job/1 ü", "succeeded", {"id": "job/1 ü"}))
    status = await store.status("job/1 ü")
    assert status is not None
    assert status.status == "succeeded"
    assert status.outcome is not None
    assert status.outcome.result == {"id": "job/1 ü"}


async def test_the_first_outcome_counts_for_all(objects: Objects) -> None:
    store = ResultStore(objects)
    outcomes = [Outcome("x", "succeeded", {"n": n}) for n in range(8)]
    counted = await asyncio.gather(*(store.finish(outcome) for outcome in outcomes))
    assert len({outcome.encode() for outcome in counted}) == 1
    assert counted[0] == await store.outcome("x")


async def test_a_marker_is_made_once_and_withdrawn(objects: Objects) -> None:
    store = ResultStore(objects)
    first = await store.create_job(JobMarker("x", "s3://b/1"))
    assert await store.create_job(JobMarker("x", "s3://b/2")) == first
    await store.withdraw(first)
    assert await store.status("x") is None
    marker = await store.job("x")
    assert marker is not None
    assert marker.withdrawn


async def test_only_a_failure_is_forgotten(objects: Objects) -> None:
    store = ResultStore(objects)
    await store.finish(Outcome("bad", "failed", error={"type": "BadImage", "detail": "no image"}))
    await store.finish(Outcome("good", "succeeded", {}))
    for job in ("bad", "good", "unknown"):
        await store.forget_failure(job)
    assert await store.outcome("bad") is None
    assert await store.outcome("good") is not None


async def test_failed_attempts_are_counted_until_the_failure_is_forgotten(objects: Objects) -> None:
    store = ResultStore(objects)
    assert await store.failed_attempts("x") == 0
    await store.put_failed_attempts("x", 2)
    assert await store.failed_attempts("x") == 2
    await store.finish(Outcome("x", "failed", error={"type": "FetchFailed", "detail": "no answer"}))
    await store.forget_failure("x")
    assert await store.failed_attempts("x") == 0


async def test_content_is_kept_once(objects: Objects) -> None:
    store = ResultStore(objects)
    key = content_key("a" * 64, "f", {"site": 7})
    assert key != content_key("a" * 64, "f", {"site": 8})
    assert await store.cached(key) is None
    await store.keep(key, {"context": {"ü": 1}})
    await store.keep(key, {"context": {}})
    assert await store.cached(key) == {"context": {"ü": 1}}
