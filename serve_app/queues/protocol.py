"""What a queue is here: messages are leased, not taken, and end by ``ack``, ``nack`` or ``dead_letter``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from classifiers import SetupError, VisionError

__all__ = ["BadQueueUrl", "Message", "MissingExtra", "Queue", "QueueStats", "QueueUnavailable"]


class BadQueueUrl(SetupError):
    """A queue URL that cannot be understood, or names a queue that is not there; the message shows the form."""


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
        published: when, in seconds since the epoch; ``None`` where the broker does not tell.
        receipt: the broker's handle of this delivery. It ends with the connection or the lease that it came with.
    """

    body: bytes
    deliveries: int | None = 1
    published: float | None = None
    receipt: Any = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """How a queue stands.

    Attributes:
        waiting: messages that a worker could get now; ``None``: the broker does not tell.
        in_flight: messages that are leased or put off; ``None``: the broker does not tell.
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

    What is done with a message whose lease has ended, or whose connection was lost, has no effect and is no error: the
    broker delivers it again.
    """

    scheme: ClassVar[str]
    """The URL's."""

    stats_are_late: ClassVar[bool] = False
    """Whether ``stats`` tells how the queue stood minutes ago."""

    lease_s: float = 60.0
    """How long a message that was received stays invisible to others."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it is called at the broker."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and make the queue where the broker lets queues be made by those who use them.

        Raises:
            BadQueueUrl: the queue is not there and must be made by an operator.
        """

    @abstractmethod
    async def close(self) -> None:
        """Disconnect. What is still leased comes back to the queue, at once where the broker can do that."""

    @abstractmethod
    async def publish(self, bodies: Sequence[bytes]) -> None:
        """Put messages on the queue. Returns when the broker has accepted all; after an error some may be there."""

    @abstractmethod
    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        """Lease up to ``limit`` messages; waits up to ``wait_s`` for the first one. Empty when there was none."""

    @abstractmethod
    async def ack(self, messages: Sequence[Message]) -> None:
        """These are done. A message whose lease has run out may come again all the same."""

    @abstractmethod
    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        """Requeue it, to be delivered again after ``delay_s`` at the earliest."""

    @abstractmethod
    async def extend(self, messages: Sequence[Message]) -> None:
        """Renew the leases of these for ``lease_s`` from now; one that has run out stays so."""

    @abstractmethod
    async def dead_letter(self, message: Message, letter: bytes) -> None:
        """Put ``letter`` on the queue of dead letters, then acknowledge ``message``.

        A crash in between gives the letter twice where the broker cannot do both at once: letters carry an id.
        """

    @abstractmethod
    async def stats(self) -> QueueStats:
        """How the queue stands now; with most brokers an estimate. Leases nothing and counts as no delivery."""

    @abstractmethod
    def dead(self) -> Queue:
        """The queue of its dead letters, not opened."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
