"""A job that is deleted while a worker runs it, or after the worker died: nothing of it is left, nothing comes back."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from intakes import STREET, Place, consuming, place, until
from stored_bytes import calls_of, everything

from graph import LocalBackend
from serve_app.images import upload_address
from serve_app.results import JobMarker, ResultStore, StoreUnavailable
from serve_app.results.compaction import compact
from serve_app.results.deletion import delete_job, purge
from serve_app.results.query import query

SECRET = "number-one-thousand"
SHA = hashlib.sha256(STREET).hexdigest()
FORBIDDEN = (SECRET.encode(), SHA.encode(), STREET[20:60], b"\xff\xd8\xff")
RULES = {"reuse_results": True, "keep_images": "always"}

Story: TypeAlias = Callable[[Place, str, int, LocalBackend], Awaitable[bool]]

pytestmark = pytest.mark.timeout(300)


async def send(at: Place, way: str) -> dict[str, str]:
    """A job that brings its image, or names it; its message."""
    if way == "upload":
        await at.uploads.store(STREET, SHA, None)
        uri = upload_address(SHA)
    else:
        uri = at.image()
    marker = JobMarker("job-gone", uri, {"customer": SECRET}, annotate=True)
    await at.store.put_job(marker)
    message = {"id": marker.id, "uri": uri}
    await at.publish(message)
    return message


def delete(at: Place) -> None:
    delete_job(at.store.objects, "job-gone", "somebody", at.uploads.delete)


async def check(at: Place) -> None:
    compact(at.store.objects)
    purge(at.store.objects, at.uploads.delete)
    left = everything(at.store.objects)
    assert [word for word in FORBIDDEN if word in left] == []
    assert query(at.store.objects, "SELECT id FROM results").rows == []
    outcome = await at.store.outcome("job-gone")
    assert outcome is not None
    assert (outcome.status, outcome.result) == ("deleted", None)


class Interrupted:
    """A store of which ``what`` is called before one of the calls, or before each one from there on."""

    def __init__(self, at: Place, number: int, what: Callable[[], object], *, for_good: bool = False) -> None:
        self.was_reached = False
        self._number, self._what, self._for_good = number, what, for_good
        self.store = ResultStore(calls_of(at.store.objects, self._before))

    def _before(self, call: int) -> None:
        if call == self._number or (self._for_good and call > self._number):
            self.was_reached = True
            self._what()


def die() -> None:
    raise StoreUnavailable("the worker is dead")


async def deleted_meanwhile(at: Place, way: str, number: int, backend: LocalBackend) -> bool:
    """A job is deleted before a worker's call of the store. Whether there was such a call."""
    message = await send(at, way)
    seen = Interrupted(at, number, partial(delete, at))
    async with consuming(at, backend, store=seen.store, **RULES):
        await until(at.is_empty)
        if seen.was_reached:
            await at.publish(message)
            await until(at.is_empty)
    await seen.store.close()
    return seen.was_reached


async def deleted_after_a_death(at: Place, way: str, number: int, backend: LocalBackend) -> bool:
    """A worker dies at a call of the store, the job is deleted, and another worker gets its message."""
    await send(at, way)
    seen = Interrupted(at, number, die, for_good=True)

    async def is_over() -> bool:
        return seen.was_reached or await at.is_empty()

    async with consuming(at, backend, store=seen.store, stop_s=0.1, **RULES):
        await until(is_over)
    await seen.store.close()
    delete(at)
    async with consuming(at, backend, **RULES):
        await until(at.is_empty)
    return seen.was_reached


@pytest.mark.parametrize(
    ("story", "way"),
    [
        (deleted_meanwhile, "upload"),
        pytest.param(deleted_meanwhile, "fetched", marks=pytest.mark.slow),
        pytest.param(deleted_after_a_death, "upload", marks=pytest.mark.slow),
        pytest.param(deleted_after_a_death, "fetched", marks=pytest.mark.slow),
    ],
)
async def test_deletion_at_each_call_of_a_worker(story: Story, way: str, tmp_path: Path, toys: LocalBackend) -> None:
    for number in itertools.count(1):
        (tmp_path / str(number)).mkdir()
        url = f"sqlite:///{tmp_path}/{number}/jobs.db?lease_s=2"
        async with place(tmp_path / str(number), url) as at:
            if not await story(at, way, number, toys):
                break
            await check(at)
    assert number > 6
