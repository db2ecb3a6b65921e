"""Authentication, scopes and limits of requests."""

from __future__ import annotations

import itertools
import math
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache

from fastapi import Request

from classifiers import SetupError
from serve_app.access.budgets import DAY_S, Budgets, LocalBudgets, Verdict
from serve_app.access.client_addresses import budget_key
from serve_app.access.credentials import Authenticator
from serve_app.access.principal import Principal
from serve_app.config import GatewayConfig, Limits
from serve_app.refusals import Forbidden, TooManyRequests

__all__ = ["Guard"]

# A request whose replica died counts as concurrent until its deadline has passed by this.
_LEASE_EXTRA_S = 5.0

# by Verdict.refused: the limit's name, and the detail of the 429
_LIMIT_NAMES = {"rate": "requests_per_second", "day": "images_per_day", "concurrent": "concurrent"}
_DETAILS = {
    "rate": "the key has exceeded its request rate; send more slowly",
    "day": "the key has used its images of the day; the quota resets at midnight UTC",
    "concurrent": "the key has reached its limit of concurrent requests; wait for a response",
}


class Guard:
    """The rules of a ``gateway:`` block.

    Raises:
        SetupError: a file that the block names cannot be read.
    """

    def __init__(self, config: GatewayConfig) -> None:
        self.is_open = config.auth.is_open
        self._authenticator = Authenticator(config.auth)
        self._lease_s = config.timeout_ms / 1000 + _LEASE_EXTRA_S
        self._budgets = _budgets(config)
        self._name, self._numbers = uuid.uuid4().hex, itertools.count()
        # Without a common count each replica has its part, so that all of them together keep to the limit.
        shares = 1 if config.rate_limits.redis_url else config.shares

        @lru_cache(maxsize=4096)
        def limits_of(key_id: str, tenant: str) -> tuple[str, Limits]:
            owner, limits = config.limits_of(key_id, tenant)
            return owner, limits.share(shares)

        self._limits_of = limits_of

    @asynccontextmanager
    async def admitted(self, request: Request, scope: str, images: int) -> AsyncIterator[None]:
        """Admit a request until the block ends; ``request.state.principal`` is its client.

        Raises:
            Unauthorized: it has no valid credential.
            Forbidden: the credential does not have the scope.
            TooManyRequests: its budget is used up.
        """
        principal = await self._authenticator.authenticate(request.headers)
        request.state.principal = principal
        if scope not in principal.scopes:
            raise Forbidden(f"the key does not have the scope '{scope}'; ask the operator for one", scope=scope)
        key, limits = self._budget_of(request, principal)
        if limits.is_unlimited:
            yield
            return
        lease = f"{self._name}-{next(self._numbers)}"  # not the request's id: a client may send the same one twice
        verdict = await self._budgets.take(key, limits, images, lease, self._lease_s)
        request.state.headers.update(_headers(limits, verdict))
        if verdict.refused is not None:
            limit = getattr(limits, _LIMIT_NAMES[verdict.refused])
            raise TooManyRequests(_DETAILS[verdict.refused], limit=limit, retry_after_s=round(verdict.retry_after_s, 3))
        try:
            yield
        finally:
            if limits.concurrent is not None:
                await self._budgets.give_back(key, lease)

    async def take_images(self, request: Request, images: int) -> None:
        """Take images from the daily quota of an admitted request, for a route that runs several.

        Raises:
            TooManyRequests: fewer are left.
        """
        key, limits = self._budget_of(request, request.state.principal)
        if limits.images_per_day is None:
            return
        quota = Limits(images_per_day=limits.images_per_day)
        verdict = await self._budgets.take(key, quota, images, "", self._lease_s)
        if verdict.refused is not None:
            left = f"{verdict.images_left} of {limits.images_per_day} images are left today, and {images} were sent"
            raise TooManyRequests(left, limit=limits.images_per_day, retry_after_s=round(verdict.retry_after_s, 3))

    def _budget_of(self, request: Request, principal: Principal) -> tuple[str, Limits]:
        owner, limits = self._limits_of(principal.key_id, principal.tenant)
        return (f"address:{budget_key(request.state.client)}" if self.is_open else owner), limits


def _budgets(config: GatewayConfig) -> Budgets:
    limits = config.rate_limits
    if limits.redis_url is None:
        return LocalBudgets()
    try:
        from serve_app.access.redis_budgets import RedisBudgets
    except ImportError as error:
        raise SetupError("gateway.rate_limits.redis_url: needs redis; pip install 'visiongraph[redis]'") from error

    return RedisBudgets(limits.redis_url, limits.redis_prefix, config.shares)


def _headers(limits: Limits, verdict: Verdict) -> dict[str, str]:
    """What the key has left, in the names of draft-ietf-httpapi-ratelimit-headers-06: of the rate, else of the day."""
    if limits.requests_per_second is None or verdict.refused == "day":
        if limits.images_per_day is None or verdict.images_left is None:
            return {}
        size, window_s = limits.images_per_day, DAY_S
        left, reset_s = verdict.images_left, -time.time() % DAY_S
    else:
        size, window_s = limits.burst_size, max(1, math.ceil(limits.burst_size / limits.requests_per_second))
        left, reset_s = verdict.remaining or 0, verdict.reset_s
    return {
        "RateLimit-Limit": str(size),
        "RateLimit-Remaining": str(left),
        "RateLimit-Reset": str(math.ceil(reset_s)),
        "RateLimit-Policy": f"{size};w={window_s}",
    }
