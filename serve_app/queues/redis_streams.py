"""Redis Streams: a consumer group, leases by idle time, messages that are put off in a sorted set beside the stream.

Whether an accepted message survives a crash of Redis is its own setting: ``appendonly yes``, ``appendfsync always``.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from serve_app.queues.protocol import Message, Queue, QueueStats, QueueUnavailable
from serve_app.queues.urls import QueueUrl

__all__ = ["RedisQueue"]

_GROUP = "workers"
_BLOCK_S = 0.5  # what was put off becomes due only when someone looks
_SOCKET_TIMEOUT_S = 10.0

# Each script is one atomic step: a crash finds a message in one place, never in two or none.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

# What is due goes back to the stream. A member of the set is "<unique> <published> <deliveries>\n<body>".
_PROMOTE = (
    _NOW
    + """
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, 100)
for _, member in ipairs(due) do
  local head = string.find(member, '\\n', 1, true)
  local published, deliveries = string.match(string.sub(member, 1, head - 1), '^%S+ (%S+) (%S+)$')
  redis.call('XADD', KEYS[1], '*', 't', published, 'a', deliveries, 'b', string.sub(member, head + 1))
  redis.call('ZREM', KEYS[2], member)
end
return #due
"""
)

# Only by its holder: a lease that ran out may be another's by now, who is working on the message.
_TAKE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
"""

_PUT_OFF = _NOW + _TAKE + "redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[5])"

_DEAD_LETTER = _NOW + _TAKE + "redis.call('XADD', KEYS[2], '*', 't', now, 'a', 0, 'b', ARGV[4])"

# JUSTID: a renewed lease is no delivery. Only by its holder: a lease that ran out may be another's by now.
_EXTEND = """
for i = 3, #ARGV do
  if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1, ARGV[2]) == 1 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end
"""


# When the first entry after one was published, without its body.
_PUBLISHED = "local e = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1)[1] return e and e[2][2]"


class RedisQueue(Queue):
    """A stream and what belongs to it, in one hash slot.

    Args:
        url: of the server and database.
        stream: the stream's key.
        lease_s: see :class:`serve_app.queues.Queue`.
    """

    scheme: ClassVar[str] = "redis"

    def __init__(self, url: str, stream: str, lease_s: float = 60.0) -> None:
        self._url = url
        self._stream = stream
        self.lease_s = lease_s
        tag = stream if stream.startswith("{") else f"{{{stream}}}"
        self._delayed = f"{tag}:delayed"
        self._dead_stream = f"{tag}:dead"
        self._consumer = secrets.token_hex(8)
        self._redis: redis.asyncio.Redis | None = None
        self._has_group = False
        self._connecting = asyncio.Lock()
        self._reclaim_at = 0.0

    @classmethod
    def from_url(cls, url: QueueUrl) -> RedisQueue:
        """``redis://host:port/db?stream=NAME``."""
        url.only("stream", "lease_s")
        return cls(url.base, url.need("stream"), url.seconds("lease_s", 60.0, 0.1, 43_200))

    @property
    def name(self) -> str:
        return self._stream

    async def open(self) -> None:
        async with self._client():
            pass

    async def close(self) -> None:
        if self._redis is not None:
            client, self._redis = self._redis, None
            await client.aclose()

    async def publish(self, bodies: Sequence[bytes]) -> None:
        async with self._client() as client, client.pipeline(transaction=True) as pipe:
            for body in bodies:
                pipe.xadd(self._stream, {"t": round(time.time() * 1000), "a": 0, "b": body})
            await pipe.execute()

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        until = time.monotonic() + wait_s
        while True:
            async with self._client() as client:
                await client.eval(_PROMOTE, 2, self._stream, self._delayed)
                messages = await self._reclaim(client, limit)
                if not messages:
                    left_s = max(0.0, until - time.monotonic())
                    block_ms = round(min(left_s, _BLOCK_S) * 1000) or None
                    answer = await client.xreadgroup(
                        _GROUP, self._consumer, {self._stream: ">"}, count=limit, block=block_ms
                    )
                    entries = _entries(answer)
                    messages = [_message(entry, fields, 1) for entry, fields in entries]
                if messages or time.monotonic() >= until:
                    return messages

    async def _reclaim(self, client: Any, limit: int) -> list[Message]:
        """Take over what others have held for longer than a lease."""
        if time.monotonic() < self._reclaim_at:
            return []
        lease_ms = round(self.lease_s * 1000)
        _, entries, *_ = await client.xautoclaim(self._stream, _GROUP, self._consumer, lease_ms, count=limit)
        entries = [(entry, fields) for entry, fields in entries if fields]
        if not entries:
            self._reclaim_at = time.monotonic() + min(1.0, self.lease_s / 4)
            return []
        async with client.pipeline(transaction=False) as pipe:
            for entry, _ in entries:
                pipe.xpending_range(self._stream, _GROUP, min=entry, max=entry, count=1)
            pending = await pipe.execute()
        counts = [rows[0]["times_delivered"] if rows else 1 for rows in pending]
        return [_message(entry, fields, count) for (entry, fields), count in zip(entries, counts, strict=True)]

    async def ack(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        entries = [message.receipt for message in messages]
        async with self._client() as client, client.pipeline(transaction=True) as pipe:
            pipe.xack(self._stream, _GROUP, *entries)
            pipe.xdel(self._stream, *entries)
            await pipe.execute()

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        published = round((message.published or time.time()) * 1000)
        member = f"{message.receipt} {published} {message.deliveries}\n".encode() + message.body
        async with self._client() as client:
            taken = (_GROUP, self._consumer, message.receipt)
            await client.eval(_PUT_OFF, 2, self._stream, self._delayed, *taken, round(delay_s * 1000), member)

    async def extend(self, messages: Sequence[Message]) -> None:
        if messages:
            async with self._client() as client:
                entries = [message.receipt for message in messages]
                await client.eval(_EXTEND, 1, self._stream, _GROUP, self._consumer, *entries)

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        async with self._client() as client:
            taken = (_GROUP, self._consumer, message.receipt)
            await client.eval(_DEAD_LETTER, 2, self._stream, self._dead_stream, *taken, letter)

    async def stats(self) -> QueueStats:
        async with self._client() as client, client.pipeline(transaction=True) as pipe:
            pipe.xlen(self._stream)
            pipe.xpending(self._stream, _GROUP)
            pipe.zcard(self._delayed)
            pipe.zcount(self._delayed, "-inf", time.time() * 1000)
            pipe.xinfo_groups(self._stream)
            length, pending, put_off, due, groups = await pipe.execute()
            leased = int(pending["pending"])
            waiting = max(0, int(length) - leased) + int(due)
            last = next(group["last-delivered-id"] for group in groups if group["name"] in (_GROUP, _GROUP.encode()))
            published = await client.eval(_PUBLISHED, 1, self._stream, last)
            age_s = 0.0 if published is None else max(0.0, time.time() - int(published) / 1000)
        return QueueStats(waiting, leased + int(put_off) - int(due), age_s)

    def dead(self) -> RedisQueue:
        return RedisQueue(self._url, self._dead_stream, self.lease_s)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """The connection, with the stream's group made; its errors as this project's.

        It connects again by itself. Closing it here would end the calls of others that use it.
        """
        if self._redis is None:
            self._redis = redis.asyncio.Redis.from_url(
                self._url, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=5
            )
        client = self._redis
        try:
            async with self._connecting:
                if not self._has_group:
                    await self._make_group(client)
                    self._has_group = True
            yield client
        except RedisError as error:
            if "NOGROUP" in str(error):  # the server lost its data, or the stream was deleted
                self._has_group = False
            raise self._unavailable(error) from error
        except Exception as error:
            if self._redis is client:
                raise
            raise self._unavailable("the connection was closed") from error

    def _unavailable(self, why: object) -> QueueUnavailable:
        return QueueUnavailable(f"the Redis stream '{self._stream}' cannot be used: {why}")

    async def _make_group(self, client: Any) -> None:
        try:
            await client.xgroup_create(self._stream, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def _entries(answer: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream in an answer: a list of pairs or, with RESP3, a mapping to lists of lists."""
    if not answer:
        return []
    if isinstance(answer, dict):
        (batches,) = answer.values()
        return [tuple(entry) for batch in batches for entry in batch]
    return list(answer[0][1])


def _message(entry: bytes, fields: dict[bytes, bytes], deliveries: int) -> Message:
    return Message(fields[b"b"], int(fields[b"a"]) + deliveries, int(fields[b"t"]) / 1000, entry.decode())
