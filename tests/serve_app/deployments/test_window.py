"""Groups form, travel and come back; the replica does as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from graph.engine import Priority
from serve_app.deployments.waiting_line import AGEING_S
from serve_app.deployments.window import Limits, Window

LIMITS = Limits(group_calls=4, group_crops=99, group_bytes=1000, under_way=100)
REQUEST: ContextVar[str] = ContextVar("request", default="none")


class Replica:
    """Holds each group until the test answers it."""

    def __init__(self, limits: Limits = LIMITS, replicas: int = 1) -> None:
        self.window: Window[str, str] = Window(self.send, limits, lambda: replicas)
        self.groups: list[list[str]] = []
        self.cancelled: list[list[str]] = []
        self.contexts: list[str] = []
        self._replies: list[asyncio.Future[tuple[Sequence[str | Exception], int]]] = []

    async def send(self, calls: list[str]) -> tuple[Sequence[str | Exception], int]:
        self.groups.append(calls)
        self.contexts.append(REQUEST.get())
        self._replies.append(asyncio.get_running_loop().create_future())
        try:
            return await self._replies[-1]
        except asyncio.CancelledError:
            self.cancelled.append(calls)
            raise

    async def call(self, name: str, **more: Any) -> str:
        given = {
            "crops": 1,
            "nbytes": 1,
            "priority": Priority.INTERACTIVE,
            "since": asyncio.get_running_loop().time(),
            **more,
        }
        return await self.window(name, **given)

    async def start(self, names: str, **more: Any) -> list[asyncio.Task[str]]:
        """A call for each letter."""
        tasks = [asyncio.create_task(self.call(name, **more)) for name in names]
        await settle()
        return tasks

    async def answer(self, group: int, waiting: int = 1, *, failing: str = "") -> None:
        """Answer a group, the calls in ``failing`` with an error."""
        outcomes = [ValueError(name) if name in failing else name.upper() for name in self.groups[group]]
        self._replies[group].set_result((outcomes, waiting))
        await settle()

    async def fail(self, group: int, error: Exception) -> None:
        self._replies[group].set_exception(error)
        await settle()

    def sent(self) -> list[str]:
        return ["".join(group) for group in self.groups]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class TestGroups:
    async def test_a_lone_call_goes_at_once(self) -> None:
        replica = Replica()
        [call] = await replica.start("a")
        assert replica.sent() == ["a"]
        await replica.answer(0)
        assert await call == "A"

    async def test_calls_of_the_same_moment_go_together(self) -> None:
        replica = Replica()
        await replica.start("abc")
        assert replica.sent() == ["abc"]

    async def test_two_groups_are_under_way_and_the_rest_waits(self) -> None:
        replica = Replica()
        for names in ("a", "b", "c", "d"):
            await replica.start(names)
        assert replica.sent() == ["a", "b"]
        assert replica.window.waiting == 2
        await replica.answer(0)
        assert replica.sent() == ["a", "b", "cd"]

    async def test_a_group_has_no_more_images_than_a_batch(self) -> None:
        replica = Replica()
        await replica.start("abcdefghij")
        assert replica.sent() == ["abcd", "efgh"]

    async def test_and_no_more_bytes_than_a_message(self) -> None:
        replica = Replica()
        await replica.start("abc", nbytes=400)
        assert replica.sent() == ["ab", "c"]

    async def test_and_no_more_crops(self) -> None:
        replica = Replica(Limits(group_calls=4, group_crops=5, group_bytes=1000, under_way=100))
        await asyncio.gather(replica.start("ab", crops=2), replica.start("c", crops=2), replica.start("d", crops=9))
        assert replica.sent() == ["ab", "c"]
        await replica.answer(0)
        assert replica.sent() == ["ab", "c", "d"]

    async def test_a_call_that_is_larger_goes_alone(self) -> None:
        replica = Replica()
        await replica.start("a", nbytes=4000)
        assert replica.sent() == ["a"]

    async def test_one_that_must_be_alone_travels_alone(self) -> None:
        replica = Replica(Limits(group_calls=9, group_crops=99, group_bytes=1000, under_way=100))
        await asyncio.gather(replica.start("a"), replica.start("x", is_alone=True), replica.start("b"))
        assert replica.sent() == ["a", "x"]
        await replica.answer(0)
        assert replica.sent() == ["a", "x", "b"]

    async def test_no_more_calls_are_under_way_than_the_replicas_take(self) -> None:
        replica = Replica(Limits(group_calls=4, group_crops=99, group_bytes=1000, under_way=3), replicas=2)
        await replica.start("abcdefgh")
        assert replica.sent() == ["abcd", "ef"]
        await replica.answer(1)
        assert replica.sent() == ["abcd", "ef", "gh"]

    async def test_limits_can_be_replaced(self) -> None:
        replica = Replica()
        replica.window.limits = Limits(group_calls=2, group_crops=99, group_bytes=1000, under_way=100)
        await replica.start("abcd")
        assert replica.sent() == ["ab", "cd"]

    async def test_a_group_belongs_to_no_request(self) -> None:
        """Serve cancels what is sent in the context of a request when that request is cancelled."""
        replica = Replica()
        token = REQUEST.set("first")
        await replica.start("a")
        REQUEST.reset(token)
        assert replica.contexts == ["none"]


class TestSize:
    async def test_grows_where_calls_wait_here_and_no_group_there(self) -> None:
        replica = Replica()
        await replica.start("abcdefghijkl")
        await replica.answer(0, waiting=0)
        assert replica.window.most_groups == 3
        assert replica.sent() == ["abcd", "efgh", "ijkl"]

    @pytest.mark.parametrize(("calls", "waiting"), [("abcdefgh", 0), ("abcdefghijkl", 1)])
    async def test_stays_where_none_waits_here_or_one_waits_there(self, calls: str, waiting: int) -> None:
        replica = Replica()
        await replica.start(calls)
        await replica.answer(0, waiting=waiting)
        assert replica.window.most_groups == 2

    async def test_shrinks_where_several_wait_there_but_not_below_one(self) -> None:
        replica = Replica()
        await replica.start("abcdefghijklmnop")
        for group in range(3):
            await replica.answer(group, waiting=2)
            assert replica.window.most_groups == 1
        assert replica.sent() == ["abcd", "efgh", "ijkl", "mnop"]

    async def test_does_not_grow_where_something_else_holds_the_calls_back(self) -> None:
        replica = Replica(Limits(group_calls=4, group_crops=99, group_bytes=1000, under_way=4))
        await replica.start("abcdefgh")
        await replica.answer(0, waiting=0)
        assert replica.window.most_groups == 2


class TestCancelled:
    async def test_before_it_is_sent_it_is_dropped(self) -> None:
        replica = Replica()
        for names in ("a", "b"):
            await replica.start(names)
        gone, _ = await replica.start("cd")
        gone.cancel()
        await settle()
        assert replica.window.waiting == 1
        await replica.answer(0)
        assert replica.sent() == ["a", "b", "d"]

    async def test_in_the_moment_before_its_group_leaves(self) -> None:
        replica = Replica()
        gone, kept = (asyncio.create_task(replica.call(name)) for name in "ab")
        await asyncio.sleep(0)
        gone.cancel()
        await settle()
        assert replica.sent() == ["b"]
        await replica.answer(0)
        assert await kept == "B"

    async def test_in_a_group_under_way_its_answer_is_discarded(self) -> None:
        replica = Replica()
        gone, kept = await replica.start("ab")
        gone.cancel()
        await settle()
        assert replica.cancelled == []
        await replica.answer(0)
        assert await kept == "B"
        assert gone.cancelled()

    async def test_with_all_others_its_group_is_cancelled_and_makes_room(self) -> None:
        replica = Replica()
        calls = [*await replica.start("ab"), *await replica.start("c")]
        await replica.start("d")
        for call in calls[:2]:
            call.cancel()
        await settle()
        assert replica.cancelled == [["a", "b"]]
        assert replica.sent() == ["ab", "c", "d"]

    async def test_in_the_moment_in_which_its_group_leaves_it_makes_room_too(self) -> None:
        replica = Replica(Limits(group_calls=1, group_crops=99, group_bytes=1000, under_way=1))
        gone = asyncio.create_task(replica.call("a"))
        await asyncio.sleep(0)
        replica.window._send_groups()  # the group is made, and its task has not run yet
        gone.cancel()
        await settle()
        assert replica.cancelled == [["a"]]
        [call] = await replica.start("b")
        await replica.answer(1)
        assert await call == "B"

    async def test_past_its_deadline(self) -> None:
        replica = Replica()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await replica.call("a")
        await settle()
        assert replica.cancelled == [["a"]]


class TestFailures:
    async def test_of_one_call_are_its_own(self) -> None:
        replica = Replica()
        calls = await replica.start("abc")
        await replica.answer(0, failing="b")
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["A", "b", "C"]
        assert isinstance(outcomes[1], ValueError)

    async def test_of_the_message_are_those_of_all_its_calls(self) -> None:
        replica = Replica()
        calls = await replica.start("ab")
        await replica.fail(0, ConnectionError("died"))
        for call in calls:
            with pytest.raises(ConnectionError, match="died"):
                await call
        await replica.start("c")
        assert replica.sent() == ["ab", "c"]

    async def test_one_that_is_cancelled_from_outside_leaves_no_caller_waiting(self) -> None:
        replica = Replica()
        calls = await replica.start("ab")
        replica._replies[0].cancel()
        await settle()
        assert all(call.cancelled() for call in calls)

    async def test_a_reply_that_lacks_an_outcome_fails_all(self) -> None:
        replica = Replica()
        calls = await replica.start("ab")
        replica._replies[0].set_result((["A"], 0))
        for call in calls:
            with pytest.raises(ValueError, match="zip"):
                await call


class TestPriorities:
    async def test_the_higher_goes_first(self) -> None:
        replica = Replica(Limits(group_calls=2, group_crops=99, group_bytes=1000, under_way=100))
        await replica.start("abcd")
        await replica.start("x", priority=Priority.BACKGROUND)
        await replica.start("q", priority=Priority.QUEUE)
        await replica.start("h", priority=Priority.INTERACTIVE)
        await replica.answer(0)
        await replica.answer(1)
        assert replica.sent() == ["ab", "cd", "hq", "x"]

    async def test_one_that_has_waited_long_goes_before_a_new_one_of_the_next_priority(self) -> None:
        replica, now = Replica(Limits(group_calls=1, group_crops=99, group_bytes=1000, under_way=100)), 1000.0
        await replica.start("ab")
        await replica.start("q", priority=Priority.QUEUE, since=now)
        await replica.start("h", since=now + AGEING_S + 0.1)
        await replica.start("x", priority=Priority.BACKGROUND, since=now - AGEING_S - 0.1)
        for group in range(3):
            await replica.answer(group)
        assert replica.sent() == ["a", "b", "x", "q", "h"]


class TestOverload:
    LIMITS = Limits(group_calls=1, group_crops=99, group_bytes=1000, under_way=1, waiting=2)

    async def test_too_many_that_wait_are_refused(self) -> None:
        replica = Replica(self.LIMITS)
        calls = await replica.start("abcde")
        assert replica.sent() == ["a"]
        assert replica.window.waiting == 2
        refused = [call for call in calls if call.done()]
        assert len(refused) == 2
        assert all(isinstance(call.exception(), asyncio.QueueFull) for call in refused)

    async def test_one_that_was_sent_before_is_not(self) -> None:
        replica = Replica(self.LIMITS)
        await replica.start("abc")
        await replica.start("r", is_retried=True)
        assert replica.window.waiting == 3

    async def test_those_of_the_same_moment_that_find_room_do_not_count(self) -> None:
        replica = Replica(Limits(group_calls=1, group_crops=99, group_bytes=1000, under_way=100, waiting=1))
        calls = await replica.start("abc")
        assert replica.sent() == ["a", "b"]
        assert not any(call.done() for call in calls)


async def test_many_callers_and_replicas_lose_nothing() -> None:
    """Every call gets its own answer, whatever is cancelled or fails meanwhile."""
    served: list[int] = []

    async def send(calls: list[int]) -> tuple[list[str | Exception], int]:
        await asyncio.sleep(0.001 * (calls[0] % 3))
        served.extend(calls)
        return [ValueError(str(call)) if call % 7 == 0 else str(call) for call in calls], calls[0] % 3

    window: Window[int, str] = Window(send, LIMITS, lambda: 1)

    async def call(number: int) -> str:
        priority, since = Priority(number % 3), asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(0.0005 if number % 11 == 0 else None):
                return await window(number, crops=1, nbytes=number, priority=priority, since=since)
        except (TimeoutError, ValueError) as error:
            return type(error).__name__

    answers = await asyncio.gather(*(call(number) for number in range(1, 400)))
    for number, answer in enumerate(answers, 1):
        expected = {"ValueError"} if number % 7 == 0 else {str(number)}
        assert answer in (expected | {"TimeoutError"} if number % 11 == 0 else expected)
    assert window.waiting == 0
    assert len(served) == len(set(served))
    await settle()
    assert window._groups == window._calls_under_way == 0
