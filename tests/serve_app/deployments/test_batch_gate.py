from __future__ import annotations

import asyncio

import pytest

from graph.engine import Priority
from serve_app.deployments.batch_gate import BatchGate

INTERACTIVE = Priority.INTERACTIVE, 0.0  # and when it came


class Model:
    """Calls that hold the gate until the test lets their group go."""

    def __init__(self, max_size: int) -> None:
        self.gate = BatchGate(max_size)
        self.inside: list[str] = []
        self.groups: list[list[str]] = []
        self._done = asyncio.Event()

    async def call(self, name: str, priority: Priority) -> str:
        async with self.gate(len(name), priority, asyncio.get_running_loop().time()):
            self.inside.append(name)
            await self._done.wait()
        return name

    async def start(self, *names: str, priority: Priority = Priority.INTERACTIVE) -> list[asyncio.Task[str]]:
        tasks = [asyncio.create_task(self.call(name, priority)) for name in names]
        await self.settle()
        return tasks

    async def finish(self) -> None:
        """End the running group; afterwards the next one is inside."""
        self.groups.append(self.inside)
        self.inside = []
        self._done.set()
        self._done = asyncio.Event()
        await self.settle()

    async def settle(self) -> None:
        await asyncio.sleep(0.002)  # timers of no length need a turn of the clock
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_lone_call_goes_at_once() -> None:
    model = Model(4)
    await model.start("a")
    assert model.inside == ["a"]


async def test_calls_of_the_same_moment_go_together() -> None:
    model = Model(4)
    await model.start("a", "b", "c")
    assert model.inside == ["a", "b", "c"]


async def test_what_waits_goes_together_when_the_model_is_free() -> None:
    model = Model(4)
    await model.start("a")
    await model.start("b")
    await model.start("c", "dd", "e")
    assert model.inside == ["a"]
    assert model.gate.waiting == 4
    await model.finish()
    assert model.inside == ["b", "c", "dd"]
    await model.finish()
    assert model.inside == ["e"]


async def test_the_next_group_waits_for_the_last_call_of_this_one() -> None:
    model = Model(2)
    tasks = await model.start("a", "b", "c")
    tasks[0].cancel()
    await model.settle()
    assert model.inside == ["a", "b"]
    await model.finish()
    assert model.inside == ["c"]


async def test_what_waits_goes_by_priority_and_not_together() -> None:
    model = Model(8)
    await model.start("a")
    await model.start("x", priority=Priority.BACKGROUND)
    await model.start("q", "r", priority=Priority.QUEUE)
    await model.start("h")
    for group in ("a", "h", "qr", "x"):
        assert model.inside == [*group]
        await model.finish()


async def test_batches_of_lower_priority_are_short_while_clients_come(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(8)
    await model.start(*"abcdefgh", priority=Priority.QUEUE)
    assert model.inside == [*"abcdefgh"]
    await model.start("client")
    await model.start(*"ijklmnop", priority=Priority.QUEUE)
    for group in (["client"], ["i", "j"], ["k", "l"]):
        await model.finish()
        assert model.inside == group
    monkeypatch.setattr("serve_app.deployments.batch_gate._CLIENTS_S", 0.0)
    await model.finish()
    assert model.inside == ["m", "n", "o", "p"]


async def test_a_call_larger_than_a_batch_goes_alone() -> None:
    model = Model(2)
    await model.start("a")
    await model.start("large", "b")
    await model.finish()
    assert model.inside == ["large"]
    await model.finish()
    assert model.inside == ["b"]


async def test_a_cancelled_call_is_never_let_through() -> None:
    model = Model(4)
    await model.start("a")
    gone, _ = await model.start("gone", "b")
    gone.cancel()
    await model.settle()
    await model.finish()
    assert model.inside == ["b"]


async def test_all_waiting_cancelled_leaves_the_gate_open() -> None:
    model = Model(4)
    await model.start("a")
    for task in await model.start("b", "c"):
        task.cancel()
    await model.settle()
    await model.finish()
    await model.start("d")
    assert model.inside == ["d"]


async def test_a_call_that_is_cancelled_as_its_turn_comes_does_not_block_the_gate() -> None:
    gate = BatchGate(1)
    second: asyncio.Task[None]

    async def enter() -> None:
        async with gate(1, *INTERACTIVE):
            raise AssertionError("it was cancelled before it ran")

    async with gate(1, *INTERACTIVE):
        second = asyncio.create_task(enter())
        await asyncio.sleep(0)
    gate._let_through()  # its turn has come, and it has not run yet
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    async with asyncio.timeout(1), gate(1, *INTERACTIVE):
        pass


async def test_an_error_opens_the_gate() -> None:
    gate = BatchGate(4)
    with pytest.raises(ValueError, match="model"):
        async with gate(1, *INTERACTIVE):
            raise ValueError("model")
    async with asyncio.timeout(1), gate(1, *INTERACTIVE):
        pass


async def test_the_size_can_be_changed() -> None:
    model = Model(1)
    await model.start("a", "b", "c")
    model.gate.max_size = 2
    await model.finish()
    assert model.inside == ["b", "c"]


async def test_a_free_model_waits_for_a_group_to_fill_where_it_is_told_to() -> None:
    model = Model(3)
    model.gate.wait_s = 60
    await model.start("a", "b")
    assert model.inside == []
    await model.start("c")  # full: no reason to wait
    assert model.inside == ["a", "b", "c"]


async def test_the_wait_ends() -> None:
    model = Model(3)
    model.gate.wait_s = 0.01
    [task] = await model.start("a")
    async with asyncio.timeout(5):
        while not model.inside:  # noqa: ASYNC110 - the gate's own clock
            await asyncio.sleep(0.001)
    await model.finish()
    await task
