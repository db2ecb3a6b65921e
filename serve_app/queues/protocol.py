"""What a queue is: its messages are leased, and settled by ``ack``, ``nack`` or ``dead_letter``."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from classifiers import SetupError, VisionError
from serve_app.queues.urls import QueueUrl

__all__ = ["Message", "MissingExtra", "Queue", "QueueStats", "QueueUnavailable", "chunks", "is_cancelled"]

T = TypeVar("T")


class MissingExtra(SetupError):
    """A package that this queue or store needs is not installed; the message says how to install it."""


class QueueUnavailable(VisionError):
    """The broker did not answer, or not in time. The same call may work later."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message that this process holds a lease on.

    Attributes:
        body: as it was published.
        deliveries: how often the broker has delivered it, this time included, whatever the reason; at least 1. ``None``
            where the broker does not count.
        published: when, in seconds since the epoch; ``None``: the broker does not report it.
        receipt: the broker's handle of this delivery, valid as long as its connection or lease.
    """

    body: bytes
    deliveries: int | None = 1
    published: float | None = None
    receipt: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How many messages a queue holds.

    Attributes:
        waiting: messages that a worker could receive now; ``None``: not known.
        in_flight: messages that are leased or delayed; ``None``: not known.
        oldest_age_s: seconds since the oldest waiting message was published, 0 with none waiting; ``None``: not known.
    """

    waiting: int | None
    in_flight: int | None
    oldest_age_s: float | None


class Queue(ABC):
    """One queue, used from one event loop. Delivers at least once.

    A message that is received is invisible to others for ``lease_s`` and comes back after that, unless it was
    acknowledged or its lease extended. All methods but ``close`` raise :class:`QueueUnavailable` when the broker cannot
    be reached or ``close`` was called meanwhile, and connect again when they are called again.

    Settling a message whose lease has expired, or whose connection was lost, has no effect and is no error: the broker
    delivers it again.
    """

    kind: ClassVar[str]
    """What the broker calls a queue, for messages."""

    stats_are_late: ClassVar[bool] = False
    """Whether ``stats`` is some minutes old."""

    lease_s: float = 60.0
    """How long a message that was received stays invisible to others."""

    def __init__(self, url: QueueUrl, name: str) -> None:
        self._url = url
        self.name = name

    @abstractmethod
    async def open(self) -> None:
        """Connect, and create the queue where brokers let their clients create queues.

        Raises:
            BadQueueUrl: the queue does not exist, and an operator must create it.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. Leased messages return to the queue, at once where the broker can do that."""

    @abstractmethod
    async def publish(self, bodies: Sequence[bytes]) -> None:
        """Publish messages. Returns when the broker has accepted all; after an error it may have accepted some."""

    @abstractmethod
    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Lease up to ``limit`` messages; waits up to ``wait_s`` for the first one. Empty if there was none."""

    @abstractmethod
    async def ack(self, messages: Sequence[Message]) -> None:
        """Remove processed messages. One whose lease has expired may still be delivered again."""

    @abstractmethod
    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        """Requeue a message, to be delivered again after ``delay_s`` at the earliest."""

    @abstractmethod
    async def extend(self, messages: Sequence[Message]) -> None:
        """Extend leases to ``lease_s`` from now; expired ones stay expired."""

    @abstractmethod
    async def dead_letter(self, message: Message, letter: bytes) -> None:
        """Publish ``letter`` to the queue of dead letters, then acknowledge ``message``.

        Where the broker cannot do both at once, a crash in between duplicates the letter; both have the same id.
        """

    @abstractmethod
    async def stats(self) -> QueueStats:
        """How many messages the queue holds now, mostly an estimate. Leases none, and counts as no delivery."""

    @property
    def dead_name(self) -> str:
        """What the queue of its dead letters is called at the broker."""
        return f"{self.name}-dead"

    def dead(self) -> Queue:
        """The queue of its dead letters, not opened."""
        make: Callable[[QueueUrl, str], Queue] = type(self)
        return make(self._url, self.dead_name)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def unavailable(self, why: object) -> QueueUnavailable:
        """The error to raise; ``why``: the client's error."""
        return QueueUnavailable(f"the {self.kind} '{self.name}' cannot be used: {str(why) or type(why).__name__}")

    @contextmanager
    def translating(self, errors: tuple[type[Exception], ...], is_lost: Callable[[], bool]) -> Iterator[None]:
        """Raise :class:`QueueUnavailable` for a client's errors.

        Clients end the calls of a connection that is closed with errors of all kinds, ``CancelledError`` among them. To
        their callers that is a lost connection.

        Args:
            errors: what the client raises when the broker does not answer.
            is_lost: whether the connection that the block uses was closed.
        """
        try:
            yield
        except errors as error:
            raise self.unavailable(error) from error
        except (asyncio.CancelledError, Exception) as error:
            if is_cancelled() or not is_lost():
                raise
            raise self.unavailable("the connection was closed") from error


def is_cancelled() -> bool:
    """Whether the current task was asked to cancel, and not only a call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Pieces of at most ``size``, in order."""
    return (items[start : start + size] for start in range(0, len(items), size))
