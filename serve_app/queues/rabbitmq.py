"""RabbitMQ: a durable quorum queue, publisher confirms, and quorum queues with a TTL for messages that are delayed.

Needs RabbitMQ 3.10 or later. The broker's own delivery limit is a safety net, set far above the workers'.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from serve_app.queues.age import OldestEstimate
from serve_app.queues.protocol import Message, Queue, QueueStats, QueueUnavailable, is_cancelled
from serve_app.queues.urls import QueueUrl

__all__ = ["RabbitQueue"]

_DELIVERY_LIMIT = 1000
_NO_LIMIT = 2**31 - 1  # each look at the dead letters is a delivery
_DELAYS_MS = (100, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000, 900_000)
"""A delay is rounded up to one of these: each has a queue of its own, since messages expire only at a queue's head."""
_TIMEOUT_S = 30.0
_CLOSE_S = 5.0
_ERRORS = (
    AMQPError,
    aiormq.exceptions.ChannelInvalidStateError,
    ConnectionError,
    OSError,
    asyncio.TimeoutError,
    RuntimeError,
)

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Session:
    """A connection with its channel, and what is valid only there."""

    connection: AbstractConnection
    channel: AbstractChannel
    arrived: asyncio.Queue[AbstractIncomingMessage | None] | None = None
    """Deliveries, and ``None`` when the channel was closed."""
    delays: set[int] = field(default_factory=set)


class _Receipt(NamedTuple):
    """A delivery can be settled only on the channel that it came on."""

    session: _Session
    delivery: AbstractIncomingMessage

    def is_valid(self, session: _Session) -> bool:
        return self.session is session and not self.delivery.processed


class RabbitQueue(Queue):
    """``amqp://user:pass@host/vhost?queue=NAME``: a quorum queue.

    ``&prefetch=N``: how many messages the broker sends ahead, more than the worker processes at a time.
    """

    kind: ClassVar[str] = "RabbitMQ queue"
    # A delivery is leased while the channel is open; the broker's consumer_timeout is 30 minutes.
    lease_s: float = 600.0

    def __init__(self, url: QueueUrl, name: str | None = None) -> None:
        url.only("queue", "prefetch")
        super().__init__(url, name or url.need("queue"))
        self._prefetch = int(url.number("prefetch", 200, 1, 65_535))
        self._session: _Session | None = None
        self._connecting = asyncio.Lock()
        self._oldest = OldestEstimate()

    async def open(self) -> None:
        async with self._using():
            pass

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await _close(session.connection)

    async def publish(self, bodies: Sequence[bytes]) -> None:
        async with self._using() as session:
            headers = {"x-published": _now_ms()}
            await self._send(session, self.name, [(body, headers) for body in bodies])

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        async with self._using() as session:
            arrived = session.arrived or await self._consume(session)
            deliveries = []
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    deliveries.append(await arrived.get())
            while len(deliveries) < limit and not arrived.empty():
                deliveries.append(arrived.get_nowait())
            if None in deliveries:
                raise ConnectionError("the channel was closed")
        messages = [_message(session, delivery) for delivery in deliveries if delivery is not None]
        self._oldest.received(messages)
        return messages

    async def _consume(self, session: _Session) -> asyncio.Queue[AbstractIncomingMessage | None]:
        arrived: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        session.channel.close_callbacks.add(lambda *_: arrived.put_nowait(None))
        queue = await session.channel.get_queue(self.name, ensure=False)
        await queue.consume(arrived.put)
        session.arrived = arrived
        return arrived

    async def ack(self, messages: Sequence[Message]) -> None:
        async with self._using() as session:
            for message in messages:
                if message.receipt.is_valid(session):
                    await message.receipt.delivery.ack()

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        async with self._using() as session:
            if not message.receipt.is_valid(session):
                return
            if delay_s <= 0:
                await message.receipt.delivery.nack(requeue=True)
                return
            ms = next((step for step in _DELAYS_MS if step >= delay_s * 1000), _DELAYS_MS[-1])
            published = _now_ms() if message.published is None else round(message.published * 1000)
            headers = {"x-published": published, "x-deliveries": message.deliveries}
            await self._send(session, await self._delay_queue(session, ms), [(message.body, headers)])
            await message.receipt.delivery.ack()

    async def extend(self, messages: Sequence[Message]) -> None:
        pass  # the channel holds them

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        async with self._using() as session:
            if message.receipt.is_valid(session):
                await self._send(session, self.dead_name, [(letter, {"x-published": _now_ms()})])
                await message.receipt.delivery.ack()

    async def stats(self) -> QueueStats:
        async with self._using() as session:
            declared = await session.channel.declare_queue(self.name, passive=True)
            waiting = declared.declaration_result.message_count or 0
        return QueueStats(waiting, None, self._oldest.age_s(waiting, time.time()))

    @property
    def dead_name(self) -> str:
        return f"{self.name}.dead"

    async def _delay_queue(self, session: _Session, ms: int) -> str:
        name = f"{self.name}.delay.{ms}"
        if ms not in session.delays:
            arguments = _quorum({"x-message-ttl": ms, **_dead_letters_to(self.name)})
            await session.channel.declare_queue(name, durable=True, arguments=arguments)
            session.delays.add(ms)
        return name

    async def _send(self, session: _Session, key: str, messages: Sequence[tuple[bytes, dict[str, Any]]]) -> None:
        """Publish, and wait until the broker has confirmed every one."""
        exchange = session.channel.default_exchange

        async def send(body: bytes, headers: dict[str, Any]) -> None:
            message = aio_pika.Message(body, headers=headers, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await exchange.publish(message, key, mandatory=True, timeout=_TIMEOUT_S)

        # not a task group, which takes a call that the client cancels, with its connection, for one that worked
        await asyncio.gather(*(send(body, headers) for body, headers in messages))

    @asynccontextmanager
    async def _using(self) -> AsyncIterator[_Session]:
        """The open session. After an error the next call connects again."""
        session: _Session | None = None

        def is_lost() -> bool:
            return session is not None and (self._session is not session or session.channel.is_closed)

        try:
            with self.translating(_ERRORS, is_lost):
                session = await self._connected()
                yield session
        except QueueUnavailable:
            await self._give_up(session)
            raise

    async def _give_up(self, session: _Session | None) -> None:
        """Close a session that failed. Another call may have opened a new one meanwhile, which stays."""
        if session is not None:
            if self._session is session:
                self._session = None
            await _close(session.connection)

    async def _connected(self) -> _Session:
        async with self._connecting:
            if self._session is not None and self._session.channel.is_closed:
                await self._give_up(self._session)
            if self._session is None:
                # not the client's own reconnecting: leases end with their channel, so its loss must be noticed here
                connection = await aio_pika.connect(self._url.base, timeout=_TIMEOUT_S)
                try:
                    channel = await connection.channel(on_return_raises=True)
                    await self._declare(channel)
                except BaseException:
                    await _close(connection)
                    raise
                self._session = _Session(connection, channel)
            return self._session

    async def _declare(self, channel: AbstractChannel) -> None:
        await channel.set_qos(self._prefetch)
        limits: dict[str, Any] = {"x-delivery-limit": _NO_LIMIT}
        if not self.name.endswith(".dead"):
            await channel.declare_queue(self.dead_name, durable=True, arguments=_quorum(limits))
            limits = {"x-delivery-limit": _DELIVERY_LIMIT, **_dead_letters_to(self.dead_name)}
        await channel.declare_queue(self.name, durable=True, arguments=_quorum(limits))


async def _close(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await connection.close()
    except (asyncio.CancelledError, Exception) as error:
        if is_cancelled():
            raise
        _log.debug("a connection to RabbitMQ did not close cleanly: %r", error)  # it may have been lost


def _quorum(arguments: dict[str, Any]) -> dict[str, Any]:
    # reject-publish is what at-least-once dead-lettering needs; with no length limit it never rejects
    return {"x-queue-type": "quorum", "x-overflow": "reject-publish", **arguments}


def _dead_letters_to(queue: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-dead-letter-strategy": "at-least-once"}


def _message(session: _Session, delivery: AbstractIncomingMessage) -> Message:
    headers = delivery.headers
    published = headers.get("x-published")  # in whole milliseconds: AMQP's float has too few digits
    counts = (headers.get(name) for name in ("x-deliveries", "x-delivery-count"))
    deliveries = 1 + sum(count for count in counts if isinstance(count, int))
    receipt = _Receipt(session, delivery)
    return Message(delivery.body, deliveries, published / 1000 if isinstance(published, int) else None, receipt)


def _now_ms() -> int:
    return round(time.time() * 1000)
