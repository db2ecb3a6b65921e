"""Redis Streams: a consumer group, leases by idle time, and a sorted set beside the stream for delayed messages.

Accepted messages survive a crash of Redis only with its settings ``appendonly yes`` and ``appendfsync always``.
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

from serve_app.queues.protocol import Message, Queue, QueueStats
from serve_app.queues.urls import QueueUrl

__all__ = ["RedisQueue"]

_GROUP = "workers"
_BLOCK_S = 0.5  # delayed messages become due only when a consumer looks
_SOCKET_TIMEOUT_S = 10.0

# Each script is one atomic step: a crash finds a message in one place, never in two or none.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

# Messages that are due go back to the stream. A member of the set is "<unique> <published> <deliveries>\n<body>".
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

# Only by its holder: after a lease has expired another consumer may be working on the message.
_TAKE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2]) == 0 then return end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[3])
redis.call('XDEL', KEYS[1], ARGV[3])
"""

_PUT_OFF = _NOW + _TAKE + "redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[5])"

_DEAD_LETTER = _NOW + _TAKE + "redis.call('XADD', KEYS[2], '*', 't', now, 'a', 0, 'b', ARGV[4])"

# JUSTID: renewing a lease is no delivery. Only by its holder, as above.
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
    """``redis://host:port/db?stream=NAME``: a stream and the keys that belong to it, in one hash slot."""

    kind: ClassVar[str] = "Redis stream"

    def __init__(self, url: QueueUrl, name: str | None = None) -> None:
        url.only("stream", "lease_s")
        super().__init__(url, name or url.need("stream"))
        self.lease_s = url.number("lease_s", 60.0, 0.1, 43_200)
        self._tag = self.name if self.name.startswith("{") else f"{{{self.name}}}"
        self._delayed = f"{self._tag}:delayed"
        self._consumer = secrets.token_hex(8)
        self._redis: redis.asyncio.Redis | None = None
        self._has_group = False
        self._connecting = asyncio.Lock()
        self._reclaim_at = 0.0

    @property
    def dead_name(self) -> str:
        return f"{self._tag}:dead"

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
                pipe.xadd(self.name, {"t": round(time.time() * 1000), "a": 0, "b": body})
            await pipe.execute()

    async def receive(self, limit: int, wait_s: float) -> list[Message]:
        until = time.monotonic() + wait_s
        while True:
            async with self._client() as client:
                await client.eval(_PROMOTE, 2, self.name, self._delayed)
                messages = await self._reclaim(client, limit)
                if not messages:
                    left_s = max(0.0, until - time.monotonic())
                    block_ms = round(min(left_s, _BLOCK_S) * 1000) or None
                    answer = await client.xreadgroup(
                        _GROUP, self._consumer, {self.name: ">"}, count=limit, block=block_ms
                    )
                    messages = [_message(entry, fields, 1) for _, entries in answer for entry, fields in entries]
                if messages or time.monotonic() >= until:
                    return messages

    async def _reclaim(self, client: Any, limit: int) -> list[Message]:
        """Take over messages that others have held for longer than a lease."""
        if time.monotonic() < self._reclaim_at:
            return []
        lease_ms = round(self.lease_s * 1000)
        _, entries, *_ = await client.xautoclaim(self.name, _GROUP, self._consumer, lease_ms, count=limit)
        entries = [(entry, fields) for entry, fields in entries if fields]
        if not entries:
            self._reclaim_at = time.monotonic() + min(1.0, self.lease_s / 4)
            return []
        async with client.pipeline(transaction=False) as pipe:
            for entry, _ in entries:
                pipe.xpending_range(self.name, _GROUP, min=entry, max=entry, count=1)
            pending = await pipe.execute()
        counts = [rows[0]["times_delivered"] if rows else 1 for rows in pending]
        return [_message(entry, fields, count) for (entry, fields), count in zip(entries, counts, strict=True)]

    async def ack(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        entries = [message.receipt for message in messages]
        async with self._client() as client, client.pipeline(transaction=True) as pipe:
            pipe.xack(self.name, _GROUP, *entries)
            pipe.xdel(self.name, *entries)
            await pipe.execute()

    async def nack(self, message: Message, delay_s: float = 0.0) -> None:
        published = round((message.published or time.time()) * 1000)
        member = f"{message.receipt} {published} {message.deliveries}\n".encode() + message.body
        async with self._client() as client:
            taken = (_GROUP, self._consumer, message.receipt)
            await client.eval(_PUT_OFF, 2, self.name, self._delayed, *taken, round(delay_s * 1000), member)

    async def extend(self, messages: Sequence[Message]) -> None:
        if messages:
            async with self._client() as client:
                entries = [message.receipt for message in messages]
                await client.eval(_EXTEND, 1, self.name, _GROUP, self._consumer, *entries)

    async def dead_letter(self, message: Message, letter: bytes) -> None:
        async with self._client() as client:
            taken = (_GROUP, self._consumer, message.receipt)
            await client.eval(_DEAD_LETTER, 2, self.name, self.dead_name, *taken, letter)

    async def stats(self) -> QueueStats:
        async with self._client() as client, client.pipeline(transaction=True) as pipe:
            pipe.xlen(self.name)
            pipe.xpending(self.name, _GROUP)
            pipe.zcard(self._delayed)
            pipe.zcount(self._delayed, "-inf", time.time() * 1000)
            pipe.xinfo_groups(self.name)
            length, pending, put_off, due, groups = await pipe.execute()
            leased = int(pending["pending"])
            waiting = max(0, int(length) - leased) + int(due)
            last = next(group["last-delivered-id"] for group in groups if group["name"] == _GROUP.encode())
            published = await client.eval(_PUBLISHED, 1, self.name, last)
            age_s = 0.0 if published is None else max(0.0, time.time() - int(published) / 1000)
        return QueueStats(waiting, leased + int(put_off) - int(due), age_s)

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        """The client, after the stream's group was made. It connects again by itself."""
        if self._redis is None:
            self._redis = redis.asyncio.Redis.from_url(
                self._url.base, protocol=2, socket_timeout=_SOCKET_TIMEOUT_S, socket_connect_timeout=5
            )
        client = self._redis
        with self.translating((RedisError,), lambda: self._redis is not client):
            try:
                async with self._connecting:
                    if not self._has_group:
                        try:
                            await client.xgroup_create(self.name, _GROUP, id="0", mkstream=True)
                        except ResponseError as error:
                            if "BUSYGROUP" not in str(error):  # it exists
                                raise
                        self._has_group = True
                yield client
            except RedisError as error:
                if "NOGROUP" in str(error):  # the server lost its data, or the stream was deleted
                    self._has_group = False
                raise


def _message(entry: bytes, fields: dict[bytes, bytes], deliveries: int) -> Message:
    return Message(fields[b"b"], int(fields[b"a"]) + deliveries, int(fields[b"t"]) / 1000, entry.decode())
