from __future__ import annotations

import asyncio

import pytest

from graph.engine import Priority
from serve_app.deployments.admission import Admission


class Work:
    """Calls that stay inside until the test lets them out."""

    def __init__(self, most: int | None) -> None:
        self.admission = Admission(most)
        self.inside: list[str] = []
        self._done: dict[str, asyncio.Event] = {}

    async def call(self, name: str, priority: Priority) -> None:
        async with self.admission(priority, asyncio.get_running_loop().time()):
            self.inside.append(name)
            await self._done.setdefault(name, asyncio.Event()).wait()
            self.inside.remove(name)

    async def start(self, names: str, priority: Priority = Priority.INTERACTIVE) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self.call(name, priority)) for name in names]
        await settle()
        return tasks

    async def finish(self, name: str) -> None:
        self._done[name].set()
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_so_many_at_once_and_the_others_by_priority() -> None:
    work = Work(2)
    await work.start("ab")
    await work.start("x", Priority.BACKGROUND)
    await work.start("q", Priority.QUEUE)
    await work.start("h")
    assert work.inside == ["a", "b"]
    for leaving, entered in (("a", "h"), ("b", "q"), ("h", "x")):
        await work.finish(leaving)
        assert entered in work.inside


async def test_any_number_where_there_is_no_limit() -> None:
    work = Work(None)
    await work.start("abcdef")
    assert work.inside == [*"abcdef"]


async def test_one_that_is_cancelled_leaves_the_line_or_its_place() -> None:
    work = Work(1)
    [inside] = await work.start("a")
    [waits] = await work.start("b")
    await work.start("c")
    waits.cancel()
    inside.cancel()
    await settle()
    assert work.inside == ["a", "c"]  # it did not leave its list, but its place


async def test_one_that_is_cancelled_as_its_turn_comes_passes_it_on() -> None:
    admission, now = Admission(1), 0.0

    async def enter() -> None:
        async with admission(Priority.INTERACTIVE, now):
            raise AssertionError("it was cancelled before it ran")

    async with admission(Priority.INTERACTIVE, now):
        second = asyncio.create_task(enter())
        await asyncio.sleep(0)
    second.cancel()  # its turn has come, and it has not run yet
    with pytest.raises(asyncio.CancelledError):
        await second
    async with asyncio.timeout(1), admission(Priority.INTERACTIVE, now):
        pass


async def test_a_higher_limit_lets_more_in() -> None:
    work = Work(1)
    await work.start("abc")
    work.admission.most = 3
    await work.finish("a")
    assert work.inside == ["b", "c"]
