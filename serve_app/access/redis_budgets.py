"""One budget per key for all replicas, counted in Redis; a local share of it while Redis is unavailable."""

from __future__ import annotations

import logging
import time

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from throttled.rate_limiter.gcra import RedisLimitAtomicActionSpec

from serve_app.access.budgets import CONCURRENT_RETRY_S, DAY_S, LocalBudgets, Verdict
from serve_app.access.redis_pipelining import PipeliningRedis
from serve_app.config import Limits

__all__ = ["RedisBudgets"]

_log = logging.getLogger(__name__)

# After a failure the local share applies for this long before Redis is asked again.
_RETRY_AFTER_S = 1.0

# All checks of a request in one command, by Redis's own clock. The rate is throttled-py's own script, as a function.
# KEYS: of the rate, of the concurrent requests (sorted set, by the end of their lease in us), of the images of the day.
# ARGV: seconds per request and burst, or 0; limit of concurrent requests, or -1; lease; its length in us; images per
# day, or -1; images; seconds after which the day's count expires.
_TAKE = (
    f"local function rate(KEYS, ARGV) {RedisLimitAtomicActionSpec.SCRIPTS} end"
    """
    local of_rate = {0, -1, '0', '0'}
    if tonumber(ARGV[1]) > 0 then
        of_rate = rate({KEYS[1]}, {ARGV[1], ARGV[2], 1})
        if of_rate[1] == 1 then return {'rate', of_rate[2], of_rate[3], of_rate[4], -1} end
    end
    local concurrent, now = tonumber(ARGV[3]), 0
    if concurrent >= 0 then
        local clock = redis.call('TIME')
        now = clock[1] * 1000000 + clock[2]
        redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
        if redis.call('ZCARD', KEYS[2]) >= concurrent then
            return {'concurrent', of_rate[2], of_rate[3], '0', -1}
        end
    end
    local per_day, images, left = tonumber(ARGV[6]), tonumber(ARGV[7]), -1
    if per_day >= 0 and images > 0 then
        left = math.max(0, per_day - tonumber(redis.call('GET', KEYS[3]) or '0'))
        if images > left then return {'day', of_rate[2], of_rate[3], '0', left} end
        left = left - images
        redis.call('INCRBY', KEYS[3], images)
        redis.call('EXPIRE', KEYS[3], ARGV[8])
    end
    if concurrent >= 0 then
        redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[5]), ARGV[4])
        redis.call('PEXPIRE', KEYS[2], math.ceil(ARGV[5] / 1000) + 1000)
    end
    return {'', of_rate[2], of_rate[3], '0', left}
    """
)


class RedisBudgets:
    """Counts in Redis. Use it from one event loop; it connects with the first request.

    Args:
        url: ``redis://`` or ``rediss://``.
        shares: how many replicas there may be; each has that part of a budget while Redis is unavailable.
    """

    def __init__(self, url: str, prefix: str, shares: int) -> None:
        self._redis = PipeliningRedis.from_url(
            url,
            decode_responses=True,
            protocol=2,  # costs less than 3
            retry=Retry(NoBackoff(), 1),
            socket_timeout=None,  # to connect, and for each read; the client has one around all of them
        )
        self._take = self._redis.register_script(_TAKE)
        self._prefix = prefix
        self._shares = shares
        self._local = LocalBudgets()
        self._is_down = False
        self._ask_at = float("-inf")

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """See :class:`serve_app.access.budgets.Budgets`."""
        if time.monotonic() >= self._ask_at:
            if self._is_down:  # this request asks for all: the others do not wait with it
                self._ask_at = time.monotonic() + _RETRY_AFTER_S
            try:
                verdict = await self._ask(key, limits, images, lease, lease_s)
            except (RedisError, OSError) as error:  # the timeout too
                self._has_failed(error)
            else:
                if self._is_down:
                    self._is_down = False
                    self._ask_at = float("-inf")
                    _log.warning("Redis is available again: all replicas share each budget")
                return verdict
        return await self._local.take(key, limits.share(self._shares), images, lease, lease_s)

    async def give_back(self, key: str, lease: str) -> None:
        """See :class:`serve_app.access.budgets.Budgets`. While Redis is unavailable the lease expires by itself."""
        await self._local.give_back(key, lease)
        if not self._is_down:
            try:
                await self._redis.zrem(self._concurrent(key), lease)
            except (RedisError, OSError) as error:
                self._has_failed(error)

    async def _ask(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        day, of_day_s = divmod(time.time(), DAY_S)
        rate, concurrent, per_day = limits.requests_per_second, limits.concurrent, limits.images_per_day
        refused, remaining, reset_s, retry_s, left = await self._take(
            [f"{self._prefix}:rate:{key}", self._concurrent(key), f"{self._prefix}:day:{day:.0f}:{key}"],
            [
                *((1 / rate, limits.burst_size) if rate is not None else (0, 0)),
                *(concurrent if concurrent is not None else -1, lease, round(lease_s * 1e6)),
                *(per_day if per_day is not None else -1, images, DAY_S),
            ],
        )
        retry_after_s = {"": 0.0, "rate": float(retry_s), "concurrent": CONCURRENT_RETRY_S, "day": DAY_S - of_day_s}
        return Verdict(
            refused=refused or None,
            remaining=remaining if rate is not None else None,
            reset_s=float(reset_s),
            images_left=left if left >= 0 else None,
            retry_after_s=retry_after_s[refused],
        )

    def _concurrent(self, key: str) -> str:
        return f"{self._prefix}:under-way:{key}"

    def _has_failed(self, error: Exception) -> None:
        self._ask_at = time.monotonic() + _RETRY_AFTER_S
        if not self._is_down:
            self._is_down = True
            what = str(error) or type(error).__name__
            _log.error(
                "Redis is unavailable (%s): this replica counts 1/%d of each budget until it is available again",
                what,
                self._shares,
            )
