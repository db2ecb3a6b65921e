"""RabbitMQ: a durable quorum queue, publisher confirms, and quorum queues with a TTL for what is put off.

Needs RabbitMQ 3.10 or later. The broker's own delivery limit is set far above the workers': it is only the net below.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import aio_pika
import aiormq.exceptions
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from serve_app.queues.age import OldestEstimate
from serve_app.queues.cancelling import is_cancelled
from serve_app.queues.protocol import BadQueueUrl, Message, Queue, QueueStats, QueueUnavailable
from serve_app.queues.urls import QueueUrl

__all__ = ["RabbitQueue"]

_DELIVERY_LIMIT = 1000
_NEVER = 2**31 - 1  # dead letters are delivered whenever somebody looks at them, and must not end by that
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
    arrived: asyncio.Queue[AbstractIncomingMessage] | None = None
    delays: set[int] = field(default_factory=set)


class _Receipt(NamedTuple):
    """A delivery can be settled only on the channel that it came on."""

    session: _Session
    delivery: AbstractIncomingMessage

    def is_valid(self, session: _Session) -> bool:
        return self.session is session and not self.delivery.processed


class RabbitQueue(Queue):
    """A quorum queue.

    Args:
        url: of the broker and vhost.
        queue: the queue's name.
        prefetch: messages that the broker sends ahead; more than the worker holds at once.
    """

    scheme: ClassVar[str] = "amqp"
    lease_s: float = (
        600.0  # a delivery stays ours while the channel is open; the broker's consumer_timeout is 30 minutes
    )

    def __init__(self, url: str, queue: str, prefetch: int = 200) -> None:
        self._url = url
        self._queue = queue
        self._prefetch = prefetch
        self._session: _Session | None = None
        self._connecting = asyncio.Lock()
        self._oldest = OldestEstimate()

    @classmethod
    def from_url(cls, url: QueueUrl) -> RabbitQueue:
        """``amqp://user:pass@host/vhost?queue=NAME``."""
        url.only("queue", "prefetch")
        prefetch = url.options.get("prefetch", "200")
        if not prefetch.isdigit() or not 1 <= int(prefetch) <= 65_535:
            raise BadQueueUrl(f"the queue URL says prefetch={prefetch}; it must be a whole number from 1 to 65535")
        return cls(url.base, url.need("queue"), int(prefetch))

    @property
    def name(self) -> str:
        return self._queue

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
            await self._send(session, self._queue, [(body, headers) for body in bodies])

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        async with self._using() as session:
            if session.arrived is None:
                arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
                queue = await session.channel.get_queue(self._queue, ensure=False)
                await queue.consume(arrived.put)
                session.arrived = arrived
            deliveries = await self._take(session.arrived, session.channel, limit, wait_s)
        messages = [_message(session, delivery) for delivery in deliveries]
        for message in messages:
            if message.published is not None:
                self._oldest.received(message.published)
        return messages

    async def _take(
        self, arrived: asyncio.Queue[AbstractIncomingMessage], channel: AbstractChannel, limit: int, wait_s: float
    ) -> list[AbstractIncomingMessage]:
        try:
            async with asyncio.timeout(wait_s):
                # In slices: a connection that is lost while nothing arrives must not look like an empty queue.
                while arrived.empty():
                    if channel.is_closed:
                        raise ConnectionError("the channel was closed")
                    try:
                        first = await asyncio.wait_for(arrived.get(), 0.2)
                    except TimeoutError:
                        continue
                    return [first, *_drain(arrived, limit - 1)]
        except TimeoutError:
            return []
        return _drain(arrived, limit)

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
                await self._send(session, self._dead_name, [(letter, {"x-published": _now_ms()})])
                await message.receipt.delivery.ack()

    async def stats(self) -> QueueStats:
        async with self._using() as session:
            declared = await session.channel.declare_queue(self._queue, passive=True)
            waiting = declared.declaration_result.message_count or 0
        return QueueStats(waiting, None, self._oldest.age_s(waiting, time.time()))

    def dead(self) -> RabbitQueue:
        return RabbitQueue(self._url, self._dead_name, self._prefetch)

    @property
    def _dead_name(self) -> str:
        return f"{self._queue}.dead"

    async def _delay_queue(self, session: _Session, ms: int) -> str:
        name = f"{self._queue}.delay.{ms}"
        if ms not in session.delays:
            arguments = _quorum({"x-message-ttl": ms, **_dead_letters_to(self._queue)})
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
        """The open session; the client's errors as this project's, after which the next call connects anew."""
        session: _Session | None = None
        try:
            session = await self._connected()
            yield session
        except _ERRORS as error:
            await self._give_up(session)
            raise self._unavailable(error) from error
        except (asyncio.CancelledError, Exception) as error:
            # the client ends calls on a connection that is closed under them with all sorts of errors
            if is_cancelled() or not (session and (self._session is not session or session.channel.is_closed)):
                raise
            await self._give_up(session)
            raise self._unavailable("the connection was closed") from error

    def _unavailable(self, why: object) -> QueueUnavailable:
        words = str(why) or type(why).__name__
        return QueueUnavailable(f"the RabbitMQ queue '{self._queue}' cannot be used: {words}")

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
                # Not the client's own reconnecting: a lease is a channel's, so losing one must be seen here.
                connection = await aio_pika.connect(self._url, timeout=_TIMEOUT_S)
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
        limits: dict[str, Any] = {"x-delivery-limit": _NEVER}
        if not self._queue.endswith(".dead"):
            await channel.declare_queue(self._dead_name, durable=True, arguments=_quorum(limits))
            limits = {"x-delivery-limit": _DELIVERY_LIMIT, **_dead_letters_to(self._dead_name)}
        await channel.declare_queue(self._queue, durable=True, arguments=_quorum(limits))


async def _close(connection: AbstractConnection) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await connection.close()
    except (asyncio.CancelledError, Exception) as error:
        if is_cancelled():
            raise
        _log.debug("a connection to RabbitMQ did not close in good order: %r", error)  # it may have been lost


def _quorum(arguments: dict[str, Any]) -> dict[str, Any]:
    # reject-publish is what at-least-once dead-lettering needs; with no length limit it never rejects
    return {"x-queue-type": "quorum", "x-overflow": "reject-publish", **arguments}


def _dead_letters_to(queue: str) -> dict[str, Any]:
    return {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
    }


def _drain(arrived: asyncio.Queue[AbstractIncomingMessage], limit: int) -> list[AbstractIncomingMessage]:
    return [arrived.get_nowait() for _ in range(min(limit, arrived.qsize()))]


def _message(session: _Session, delivery: AbstractIncomingMessage) -> Message:
    headers = delivery.headers
    published = headers.get("x-published")  # in whole milliseconds: AMQP's float has too few digits
    deliveries = _number(headers.get("x-deliveries")) + _number(headers.get("x-delivery-count")) + 1
    receipt = _Receipt(session, delivery)
    return Message(delivery.body, deliveries, published / 1000 if isinstance(published, int) else None, receipt)


def _now_ms() -> int:
    return round(time.time() * 1000)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
