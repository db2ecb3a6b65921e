from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from graph.runtime.batcher import Batcher


class Model:
    """Records its batches, and waits before each until it may go on."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, items: Sequence[str]) -> list[str]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.go.acquire(timeout=10)
        if "bad" in items:
            raise ValueError("bad item")
        return [item.upper() for item in items]

    async def wait_until_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@pytest_asyncio.fixture
async def model() -> Model:
    return Model()


@pytest_asyncio.fixture
async def batcher(model: Model) -> AsyncIterator[Batcher[str, str]]:
    batcher = Batcher(model, 6, "test")
    yield batcher
    model.go.release(100)
    await asyncio.to_thread(batcher.close)


async def submit(batcher: Batcher[str, str], *items: str) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(batcher.submit(item)) for item in items]
    await asyncio.sleep(0)  # each has put its item into the queue
    return tasks


async def test_what_waits_while_the_model_runs_goes_together(model: Model, batcher: Batcher[str, str]) -> None:
    first = await submit(batcher, "a")
    await model.wait_until_entered()
    rest = await submit(batcher, "b", "cc", "d")
    model.go.release(2)
    assert await asyncio.gather(*first, *rest) == ["A", "B", "CC", "D"]
    assert model.batches == [["a"], ["b", "cc", "d"]]


async def test_batches_are_bounded_by_the_sum_of_sizes(model: Model, batcher: Batcher[str, str]) -> None:
    tasks = await submit(batcher, "first")
    await model.wait_until_entered()
    tasks += await submit(batcher, "aaaa", "bb", "c", "longer than six", "d")
    model.go.release(10)
    await asyncio.gather(*tasks)
    assert model.batches == [["first"], ["aaaa", "bb"], ["c"], ["longer than six"], ["d"]]


async def test_a_cancelled_item_never_reaches_the_model(model: Model, batcher: Batcher[str, str]) -> None:
    first = await submit(batcher, "a")
    await model.wait_until_entered()
    gone, stays = await submit(batcher, "gone", "b")
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    model.go.release(10)
    assert await asyncio.gather(*first, stays) == ["A", "B"]
    assert model.batches == [["a"], ["b"]]


async def test_an_error_reaches_each_caller_and_the_thread_goes_on(model: Model, batcher: Batcher[str, str]) -> None:
    first = await submit(batcher, "a")
    await model.wait_until_entered()
    tasks = await submit(batcher, "bad", "b")
    model.go.release(10)
    results = await asyncio.gather(*first, *tasks, return_exceptions=True)
    assert results[0] == "A"
    assert [str(error) for error in results[1:]] == ["bad item", "bad item"]
    assert await batcher.submit("c") == "C"


async def test_close_cancels_what_waits_and_refuses_more(model: Model, batcher: Batcher[str, str]) -> None:
    first = await submit(batcher, "a")
    await model.wait_until_entered()
    waiting = await submit(batcher, "b")
    closing = asyncio.create_task(asyncio.to_thread(batcher.close))
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    model.go.release(10)
    await closing
    assert await first[0] == "A"
    with pytest.raises(RuntimeError, match="closed"):
        await batcher.submit("c")
