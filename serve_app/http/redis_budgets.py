"""One budget a key for all replicas, counted in Redis; a local share of it while Redis is away."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from throttled.asyncio import BaseAtomicAction, BaseStore, RedisStore, RedisStoreBackend
from throttled.constants import StoreType
from throttled.exceptions import StoreUnavailableError

from serve_app.gateway_config import Limits
from serve_app.http.budgets import CountedBudgets, Verdict, local_budgets
from serve_app.http.redis_pipelining import PipeliningRedis

__all__ = ["RedisBudgets", "RedisLeases"]

_log = logging.getLogger(__name__)

# For all that a request asks of Redis.
_TIMEOUT_S = 1.0

# After a failure the local share counts for so long before Redis is asked again.
_AWAY_S = 1.0

_OPTIONS = {
    "REDIS_CLIENT_CLASS": f"{PipeliningRedis.__module__}.{PipeliningRedis.__qualname__}",
    "SOCKET_CONNECT_TIMEOUT": _TIMEOUT_S,
    # The protocol that throttled-py is tested with; it is also the one that costs less.
    # No time limit for each read: the client has one around all of them.
    "CONNECTION_POOL_KWARGS": {"protocol": 2, "retry": Retry(NoBackoff(), 1), "socket_timeout": None},
}


class _TakeLease(BaseAtomicAction):
    """KEYS: the requests under way (sorted set, by the end of their lease in us). ARGV: limit, lease, its length in us.

    By Redis's own clock: those of the replicas may differ.
    """

    TYPE = "take-lease"
    STORE_TYPE = StoreType.REDIS.value
    _SCRIPT = """
    local clock = redis.call('TIME')
    local now = clock[1] * 1000000 + clock[2]
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3]), ARGV[2])
    redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[3] / 1000) + 1000)
    return 1
    """

    def __init__(self, backend: RedisStoreBackend) -> None:
        super().__init__(backend)
        self._script = backend.get_client().register_script(self._SCRIPT)

    async def do(self, keys: Sequence[str], args: Sequence[Any] | None) -> tuple[int]:
        """1 where it was taken, else 0."""
        return (await self._script(keys, args),)


class _EndLease(BaseAtomicAction):
    """KEYS: the requests under way. ARGV: the lease."""

    TYPE = "end-lease"
    STORE_TYPE = StoreType.REDIS.value

    def __init__(self, backend: RedisStoreBackend) -> None:
        super().__init__(backend)
        self._client: Any = backend.get_client()

    async def do(self, keys: Sequence[str], args: Sequence[Any] | None) -> tuple[int]:
        """How many leases that ended."""
        return (await self._client.zrem(keys[0], *(args or ())),)


class RedisLeases:
    """Requests under way in all replicas. One whose replica died ends with its lease.

    Args:
        store: that has the connection.
        prefix: begins the names of all entries.
    """

    def __init__(self, store: BaseStore, prefix: str) -> None:
        self._take = store.make_atomic(_TakeLease)
        self._end = store.make_atomic(_EndLease)
        self._prefix = prefix

    async def take(self, key: str, limit: int, lease: str, lease_s: float) -> bool:
        """See :class:`serve_app.http.budgets.Leases`."""
        arguments: list[Any] = [limit, lease, round(lease_s * 1e6)]
        (taken,) = await self._take.do([self._name(key)], arguments)
        return bool(taken)

    async def give_back(self, key: str, lease: str) -> None:
        """See :class:`serve_app.http.budgets.Leases`."""
        arguments: list[Any] = [lease]
        await self._end.do([self._name(key)], arguments)

    def _name(self, key: str) -> str:
        return f"{self._prefix}:under-way:{key}"


class RedisBudgets:
    """Counts in Redis. Use it from one event loop; it connects with the first request.

    Args:
        url: ``redis://`` or ``rediss://``.
        prefix: begins the names of all entries.
        shares: how many replicas there may be; each has that part of a budget while Redis is away.
    """

    def __init__(self, url: str, prefix: str, shares: int) -> None:
        store = RedisStore(url, _OPTIONS)
        self._common = CountedBudgets(store, RedisLeases(store, prefix), prefix)
        self._shares = shares
        self._local = local_budgets()
        self._away = False
        self._ask_at = float("-inf")

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """See :class:`serve_app.http.budgets.Budgets`."""
        if time.monotonic() >= self._ask_at:
            if self._away:  # this request asks for all: the others do not wait with it
                self._ask_at = time.monotonic() + _AWAY_S
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    verdict = await self._common.take(key, limits, images, lease, lease_s)
                self._is_back()
                return verdict
            except (StoreUnavailableError, OSError) as error:  # the timeout too
                self._is_away(error)
        return await self._local.take(key, limits.share(self._shares), images, lease, lease_s)

    async def give_back(self, key: str, lease: str) -> None:
        """See :class:`serve_app.http.budgets.Budgets`. Where Redis is away the lease ends by its own time."""
        await self._local.give_back(key, lease)
        if self._away:
            return
        try:
            await self._common.give_back(key, lease)
        except (StoreUnavailableError, OSError) as error:
            self._is_away(error)

    def _is_away(self, error: Exception) -> None:
        self._ask_at = time.monotonic() + _AWAY_S
        if not self._away:
            self._away = True
            cause = error.__cause__ or error
            what = str(cause) or type(cause).__name__
            _log.error(
                "Redis is away (%s): this replica counts 1/%d of each budget until it is back", what, self._shares
            )

    def _is_back(self) -> None:
        if self._away:
            self._away = False
            self._ask_at = float("-inf")
            _log.warning("Redis is back: budgets are counted together again")
