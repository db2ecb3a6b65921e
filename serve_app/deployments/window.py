"""Calls of one deployment wait at their caller while enough are under way, and travel together.

A message between two processes costs each of them milliseconds, whatever is in it. So no more messages are under way
than keep the replicas busy, and the calls that come meanwhile share the next one. How many that are is not known here:
it depends on the replicas and on other callers. Each reply says how many groups wait at its replica, and the number
follows that. A call that finds room is sent at once.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from graph.engine import Priority
from serve_app.deployments.waiting_line import Place, WaitingLine

__all__ = ["Limits", "Window"]

_GROUPS_AT_FIRST = 2

Call = TypeVar("Call")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Limits:
    """What may be under way, and what may wait.

    Attributes:
        group_calls: most calls in a group.
        group_crops: most images and crops in a group; a call with more travels alone.
        group_bytes: most bytes in a group; a larger call travels alone.
        under_way: most calls that may be under way at each replica.
        waiting: most calls that may wait at this caller; ``None``: any number.
    """

    group_calls: int
    group_crops: int
    group_bytes: int
    under_way: int
    waiting: int | None = None


@dataclass(slots=True, eq=False)
class _Member(Generic[Call, Answer]):
    """One call, from its caller to its outcome."""

    call: Call
    crops: int
    nbytes: int
    is_alone: bool
    outcome: asyncio.Future[Answer | Exception]
    group: _Group[Call, Answer] | None = None


@dataclass(slots=True, eq=False)
class _Group(Generic[Call, Answer]):
    """Calls that travel together, and how many of their callers still wait."""

    members: list[_Member[Call, Answer]] = field(default_factory=list)
    wanted: int = 0
    task: asyncio.Task[None] | None = None


class Window(Generic[Call, Answer]):
    """The window of one caller before one deployment. Use it from one event loop.

    Args:
        send: sends a group. Returns the outcome of each call in their order, where an exception is that call's alone,
            and how many other groups wait at the replica. What it raises is raised to every caller of the group. It is
            cancelled when none of them waits any more.
        limits: may be replaced at any time.
        replicas: how many replicas there are, as far as that is known.
    """

    def __init__(
        self,
        send: Callable[[list[Call]], Awaitable[tuple[Sequence[Answer | Exception], int]]],
        limits: Limits,
        replicas: Callable[[], int],
    ) -> None:
        self.limits = limits
        self._send = send
        self._replicas = replicas
        self._line: WaitingLine[_Member[Call, Answer]] = WaitingLine()
        self._most_groups = _GROUPS_AT_FIRST
        self._groups = 0
        self._calls_under_way = 0
        self._is_scheduled = False
        # Groups are sent in this context, not in that of the call that happens to be first: Serve would count the group
        # as that request's, and cancel it with the request.
        self._context = contextvars.copy_context()

    @property
    def waiting(self) -> int:
        """Calls that wait to be sent."""
        return len(self._line)

    @property
    def most_groups(self) -> int:
        """Groups that may be under way now."""
        return self._most_groups

    async def __call__(
        self,
        call: Call,
        *,
        crops: int,
        nbytes: int,
        priority: Priority,
        since: float,
        is_alone: bool = False,
        is_retried: bool = False,
    ) -> Answer:
        """Send the call, with others where it has to wait, and return its answer.

        Args:
            call: what is sent.
            crops: its crops, or 1 for the whole image.
            nbytes: what it takes of a message.
            priority: its priority among those that wait.
            since: when it came first, by the event loop's clock.
            is_alone: send it in a group of its own.
            is_retried: it was sent before, so it is never refused.

        Raises:
            asyncio.QueueFull: too many calls wait.
            Exception: what came back as this call's outcome, or what ``send`` raised.
        """
        if self._is_full() and not is_retried:
            self._send_groups()  # what came in this turn of the event loop may not have to wait
            if self._is_full():
                raise asyncio.QueueFull
        loop = asyncio.get_running_loop()
        member: _Member[Call, Answer] = _Member(call, crops, nbytes, is_alone, loop.create_future())
        place = self._line.add(member, priority, since)
        self._send_soon()
        try:
            outcome = await member.outcome
        except asyncio.CancelledError:
            self._give_up(member, place)
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _is_full(self) -> bool:
        return self.limits.waiting is not None and len(self._line) >= self.limits.waiting

    def _give_up(self, member: _Member[Call, Answer], place: Place) -> None:
        group = member.group
        if group is None:
            self._line.remove(place)
            return
        group.wanted -= 1
        if group.wanted == 0 and group.task is not None:
            group.task.cancel()

    def _send_soon(self) -> None:
        """Never at once: calls of the same moment travel together."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._send_scheduled)

    def _send_scheduled(self) -> None:
        self._is_scheduled = False
        self._send_groups()

    def _send_groups(self) -> None:
        while self._line and self._groups < self._most_groups:
            room = self.limits.under_way * max(1, self._replicas()) - self._calls_under_way
            if room <= 0:
                return
            group = self._next_group(room)
            if not group.members:
                return
            self._groups += 1
            self._calls_under_way += len(group.members)
            group.task = asyncio.get_running_loop().create_task(self._exchange(group), context=self._context)
            # not in the task itself: one that is cancelled before its first step never runs
            group.task.add_done_callback(partial(self._is_back, len(group.members)))

    def _is_back(self, calls: int, _: asyncio.Task[None]) -> None:
        self._groups -= 1
        self._calls_under_way -= calls
        self._send_groups()

    def _next_group(self, room: int) -> _Group[Call, Answer]:
        """The next group of those that wait, of ``room`` calls at most."""
        group: _Group[Call, Answer] = _Group()
        crops = nbytes = 0
        limits = self.limits
        most = min(room, limits.group_calls)
        while self._line and len(group.members) < most:
            member = self._line.first()
            if member.outcome.done():  # its caller was cancelled in this turn of the event loop
                self._line.take()
                continue
            crops += member.crops
            nbytes += member.nbytes
            fits = crops <= limits.group_crops and nbytes <= limits.group_bytes and not member.is_alone
            if group.members and not fits:
                break
            member.group = group
            group.members.append(self._line.take())
            if member.is_alone:
                break
        group.wanted = len(group.members)
        return group

    async def _exchange(self, group: _Group[Call, Answer]) -> None:
        members = group.members
        try:
            outcomes, waiting_there = await self._send([member.call for member in members])
            answered = list(zip(members, outcomes, strict=True))
            self._follow(waiting_there)
        except asyncio.CancelledError:  # nobody waits any more, or the event loop ends
            for member in members:
                member.outcome.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - raised again to each caller
            answered = [(member, error) for member in members]
        for member, outcome in answered:
            if not member.outcome.done():  # else its caller has given up
                member.outcome.set_result(outcome)

    def _follow(self, waiting_there: int) -> None:
        """Let one group more be under way where calls wait here for a replica at which none waits, and one less where
        several wait."""
        if waiting_there == 0 and self._line and self._groups >= self._most_groups:
            self._most_groups += 1
        elif waiting_there > 1 and self._most_groups > 1:
            self._most_groups -= 1
