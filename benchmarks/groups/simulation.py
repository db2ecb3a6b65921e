"""Callers, windows, gates and replicas in virtual time: the real classes, and models that only take time.

Nothing depends on the machine: the clock jumps to the next event. So it shows what waits for what, and no CPU time.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, NamedTuple, TypeVar

from graph.engine import Priority
from serve_app.deployments.batch_gate import BatchGate
from serve_app.deployments.window import Limits, Window

__all__ = ["Figures", "Load", "Setting", "in_virtual_time", "simulate"]

T = TypeVar("T")

_LINK_S = 0.002
_APART_S = 0.010
_SEED = 1


class _VirtualClock(selectors.DefaultSelector):
    """Instead of waiting, moves the clock."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _VirtualClock()
        super().__init__(self._clock)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self._clock.now


def in_virtual_time(work: Coroutine[Any, Any, T]) -> T:
    """Run the work to its end, in a time of its own."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(work)


@dataclass(frozen=True)
class Setting:
    """One deployment.

    Attributes:
        batch_s, crop_s: the model takes ``batch_s + n * crop_s`` for n crops.
        batch: ``max_batch_size``.
        group_batches: most batches of crops in a group.
        groups: groups that may be under way at each caller; ``None``: the window adapts.
    """

    batch_s: float = 0.005
    crop_s: float = 0.005
    batch: int = 8
    callers: int = 1
    replicas: int = 1
    group_batches: int = 4
    groups: int | None = None


@dataclass(frozen=True)
class Load:
    """Calls of one priority: a rate at random moments, or a constant number at once.

    Attributes:
        sizes: crops of a call; each is as likely as the others.
        rate: calls per second; 0: a closed loop.
        at_once: calls of the closed loop at each caller.
    """

    sizes: Sequence[int] = (1,)
    rate: float = 0.0
    at_once: int = 0
    priority: Priority = Priority.INTERACTIVE


class Figures(NamedTuple):
    """What came of the first load, and of the replicas."""

    per_s: float
    mean_ms: float
    p95_ms: float
    calls_per_message: float
    busy: float


@dataclass
class _Replica:
    setting: Setting
    groups: Counter[Priority] = field(default_factory=Counter)
    busy_s: float = 0.0
    _batch: list[tuple[int, asyncio.Future[None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._gate = BatchGate(self.setting.batch)
        self._model = asyncio.Lock()

    async def call(self, crops: int, priority: Priority, since: float) -> None:
        async with self._gate(crops, priority, since):
            done = asyncio.get_running_loop().create_future()
            self._batch.append((crops, done))
            if len(self._batch) == 1:
                asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._run()))
            await done

    async def _run(self) -> None:
        batch, self._batch = self._batch, []
        async with self._model:
            crops = sum(size for size, _ in batch)
            batches = -(-crops // self.setting.batch)
            took = batches * self.setting.batch_s + crops * self.setting.crop_s
            self.busy_s += took
            await asyncio.sleep(took)
        for _, done in batch:
            done.set_result(None)


class _Call(NamedTuple):
    crops: int
    priority: Priority
    since: float


async def simulate(setting: Setting, *loads: Load, seconds: float = 20.0) -> Figures:
    """Apply the loads together; the figures are those of the first."""
    loop = asyncio.get_running_loop()
    route = random.Random(_SEED)
    replicas = [_Replica(setting) for _ in range(setting.replicas)]
    messages: list[int] = []

    async def send(calls: list[_Call]) -> tuple[list[None], int]:
        # Serve's router: the less busy one of two
        replica = min(route.sample(replicas, min(2, len(replicas))), key=lambda each: each.groups.total())
        mine = min(call.priority for call in calls)
        replica.groups[mine] += 1
        messages.append(len(calls))
        await asyncio.sleep(_LINK_S)
        await asyncio.gather(*(replica.call(*call) for call in calls))
        replica.groups[mine] -= 1
        others = sum(replica.groups[each] for each in Priority if each <= mine)
        await asyncio.sleep(_LINK_S)
        return [None] * len(calls), others

    limits = Limits(setting.batch, setting.group_batches * setting.batch, 10**9, 2 * setting.batch)

    def window() -> Window[_Call, None]:
        made: Window[_Call, None] = Window(send, limits, lambda: setting.replicas)
        if setting.groups is not None:
            made._most_groups = setting.groups
            made._follow = lambda _: None  # type: ignore[method-assign]
        return made

    latencies: list[float] = []

    async def call(through: Window[_Call, None], load: Load, crops: int) -> None:
        since = loop.time()
        sent = _Call(crops, load.priority, since)
        await through(sent, crops=crops, nbytes=1, priority=load.priority, since=since)
        if load is loads[0]:
            latencies.append(loop.time() - since)

    async def closed(through: Window[_Call, None], load: Load, seed: int) -> None:
        pick = random.Random(seed)
        while loop.time() < seconds:
            await asyncio.sleep(pick.uniform(0, _APART_S))  # in lock-step they would fill any group
            await call(through, load, pick.choice(load.sizes))

    async def opened(windows: list[Window[_Call, None]], load: Load, tasks: asyncio.TaskGroup) -> None:
        pick = random.Random(_SEED)
        while (due := loop.time() + pick.expovariate(load.rate)) < seconds:
            await asyncio.sleep(due - loop.time())
            tasks.create_task(call(pick.choice(windows), load, pick.choice(load.sizes)))

    async with asyncio.TaskGroup() as tasks:
        for load in loads:
            windows = [window() for _ in range(setting.callers)]
            for number in range(load.at_once * setting.callers):
                tasks.create_task(closed(windows[number % setting.callers], load, number))
            if load.rate:
                tasks.create_task(opened(windows, load, tasks))
    ordered = sorted(latencies)
    return Figures(
        per_s=len(ordered) / loop.time(),
        mean_ms=1000 * mean(ordered),
        p95_ms=1000 * ordered[len(ordered) * 95 // 100],
        calls_per_message=mean(messages),
        busy=sum(replica.busy_s for replica in replicas) / len(replicas) / loop.time(),
    )
