"""One budget a key for all replicas, counted in Redis; a local share of it while Redis is away.

One script decides on the rate, the images of the day and the requests under way together, by Redis's own clock. The
library ``limits`` needs a round trip for each and another to say what is left, at 0.12 CPU-ms each, knows no requests
under way, and goes by the clocks of the replicas.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from serve_app.gateway_config import Limits
from serve_app.http.budgets import LocalBudgets, Refusal, Verdict, verdict

__all__ = ["RedisBudgets"]

_log = logging.getLogger(__name__)

# Redis answers within a millisecond; more is its absence, or a machine so busy that this process had no turn.
_TIMEOUT_S = 1.0

# After a failure the local share counts for so long before Redis is asked again.
_AWAY_S = 1.0

# KEYS: the account (hash: full_at in us, day, images), the leases (sorted set by their end in us).
# ARGV: interval in us, burst, images per day, images wanted, concurrent, lease, lease in us. 0 is no limit.
# Answers: which limit refused (0: none), us until full, images used, us until another try.
_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local per_day, images, concurrent = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local account = redis.call('HMGET', KEYS[1], 'full_at', 'day', 'images')
local full_at = math.max(tonumber(account[1] or 0), now)
local day = math.floor(clock[1] / 86400)
local used = tonumber(account[2] or -1) == day and tonumber(account[3]) or 0
local refused, retry = 0, 0
if interval > 0 and full_at + interval - now > burst * interval + 1 then
  refused, retry = 1, full_at + interval - now - burst * interval
elseif per_day > 0 and used + images > per_day then
  refused, retry = 2, (day + 1) * 86400000000 - now
elseif concurrent > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  if redis.call('ZCARD', KEYS[2]) >= concurrent then refused, retry = 3, 1000000 end
end
if refused == 0 then
  if interval > 0 then full_at = full_at + interval end
  if per_day > 0 then used = used + images end
  if interval > 0 or per_day > 0 then
    redis.call('HSET', KEYS[1], 'full_at', string.format('%.0f', full_at), 'day', day, 'images', used)
    redis.call('EXPIRE', KEYS[1], 2 * 86400 + math.ceil((full_at - now) / 1000000))
  end
  if concurrent > 0 then
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[7]), ARGV[6])
    redis.call('PEXPIRE', KEYS[2], math.ceil(ARGV[7] / 1000) + 1000)
  end
end
return {refused, math.ceil(full_at - now), used, math.ceil(retry)}
"""

_REFUSALS: tuple[Refusal | None, ...] = (None, "rate", "day", "concurrent")


class RedisBudgets:
    """Counts in Redis. Use it from one event loop; it connects with the first request.

    Args:
        url: ``redis://`` or ``rediss://``.
        prefix: begins the names of all entries.
        shares: how many replicas there may be; each has that part of a budget while Redis is away.
    """

    def __init__(self, url: str, prefix: str, shares: int) -> None:
        # No socket_timeout: each call has a limit around it, and a second one inside would cost as much as the call.
        self._redis: Redis = Redis.from_url(url, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 1))
        self._script = self._redis.register_script(_TAKE)
        self._prefix = prefix
        self._shares = shares
        self._local = LocalBudgets()
        self._away = False
        self._ask_at = float("-inf")

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """See :class:`serve_app.http.budgets.Budgets`."""
        if time.monotonic() >= self._ask_at:
            if self._away:  # this request asks for all: the others do not wait with it
                self._ask_at = time.monotonic() + _AWAY_S
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    answer = await self._decide(self._names(key), _arguments(limits, images, lease, lease_s))
                self._is_back()
                return _verdict(limits, answer)
            except (RedisError, OSError) as error:  # the timeout too
                self._is_away(error)
        return await self._local.take(key, limits.share(self._shares), images, lease, lease_s)

    async def give_back(self, key: str, lease: str) -> None:
        """See :class:`serve_app.http.budgets.Budgets`. Where Redis is away the lease ends by its own time."""
        await self._local.give_back(key, lease)
        if self._away:
            return
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._redis.zrem(self._names(key)[1], lease)
        except (RedisError, OSError) as error:
            self._is_away(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def _decide(self, names: list[str], arguments: list[str | int | float]) -> Any:
        try:
            return await self._redis.evalsha(self._script.sha, len(names), *names, *arguments)
        except NoScriptError:  # a server that has just started
            return await self._script(keys=names, args=arguments)

    def _names(self, key: str) -> list[str]:
        # The braces keep both entries of a key on one node of a Redis cluster.
        return [f"{self._prefix}:{{{key}}}:account", f"{self._prefix}:{{{key}}}:leases"]

    def _is_away(self, error: Exception) -> None:
        self._ask_at = time.monotonic() + _AWAY_S
        if not self._away:
            self._away = True
            what = str(error) or type(error).__name__
            _log.error(
                "Redis is away (%s): this replica counts 1/%d of each budget until it is back", what, self._shares
            )

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            self._ask_at = float("-inf")
            _log.warning("Redis is back: budgets are counted together again")


def _arguments(limits: Limits, images: int, lease: str, lease_s: float) -> list[str | int | float]:
    interval_us = 1e6 / limits.requests_per_second if limits.requests_per_second else 0
    return [
        repr(float(interval_us)),
        limits.burst_size,
        limits.images_per_day or 0,
        images,
        limits.concurrent or 0,
        lease,
        round(lease_s * 1e6),
    ]


def _verdict(limits: Limits, answer: Any) -> Verdict:
    refused, full_us, used, retry_us = answer
    return verdict(limits, _REFUSALS[refused], full_us / 1e6, used, retry_us / 1e6)
