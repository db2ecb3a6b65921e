"""What each key has left: its rate with burst, its images of the day, its concurrent requests.

throttled-py does the counting: the rate is its GCRA (ITU-T I.371), which allows neither twice the burst at the border
of two windows nor less than the rate; the images are its fixed window, from midnight to midnight UTC. Concurrent
requests are counted here, a set of names for each key: neither throttled-py nor another maintained library refuses them
at once instead of waiting. :mod:`.redis_budgets` counts the same for many replicas.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from functools import cache
from typing import Literal, Protocol

from throttled.asyncio import MemoryStore, RateLimiterType, Throttled, per_day, per_duration
from throttled.asyncio.rate_limiter import Quota

from serve_app.config import Limits

__all__ = ["CONCURRENT_RETRY_S", "DAY_S", "Budgets", "LocalBudgets", "Refusal", "Verdict"]

DAY_S = 86_400

# It is not known when one of the concurrent requests will end.
CONCURRENT_RETRY_S = 1.0

# Keys that this process keeps counts of, the last used ones: with `auth: none` each client address is one.
_MAX_KEYS = 100_000

# throttled-py takes a rate as a whole number in whole seconds.
_MAX_PERIOD_S = 1_000_000

Refusal = Literal["rate", "day", "concurrent"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request is allowed, and what its key has left.

    Attributes:
        refused: the limit that was exceeded; ``None``: the request is allowed.
        remaining: requests that may follow at once; ``None`` where the rate is not limited.
        reset_s: seconds until the whole burst is available again.
        images_left: of the day; ``None`` where they are not limited, or were not asked for.
        retry_after_s: seconds after which the same request may be allowed; 0 where it was.
    """

    refused: Refusal | None
    remaining: int | None
    reset_s: float
    images_left: int | None
    retry_after_s: float


class Budgets(Protocol):
    """Decides about requests, and counts those that it allows."""

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """Allow a request or refuse it. One that a limit refuses takes nothing of the limits after it.

        Args:
            limits: the budget, asked in this order: rate, requests under way, images.
            images: that the request will run.
            lease: names the request until it has ended.
            lease_s: after this time it counts as ended in any case.
        """

    async def give_back(self, key: str, lease: str) -> None:
        """The request has ended."""


class LocalBudgets:
    """Counts in this process. Use it from one event loop.

    Args:
        max_keys: whose counts are kept, the last used ones.
    """

    def __init__(self, max_keys: int = _MAX_KEYS) -> None:
        store = MemoryStore(options={"MAX_SIZE": max_keys})
        rate, day = RateLimiterType.GCRA.value, RateLimiterType.FIXED_WINDOW.value
        self._rate = cache(
            lambda per_second, burst: Throttled(using=rate, quota=_quota(per_second, burst), store=store)
        )
        self._day = cache(lambda images: Throttled(using=day, quota=per_day(images), store=store))
        self._under_way: dict[str, set[str]] = {}

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:  # noqa: ARG002 - leases end with this process
        """See :class:`Budgets`."""
        remaining, reset_s, left = None, 0.0, None
        if limits.requests_per_second is not None:
            answer = await self._rate(limits.requests_per_second, limits.burst_size).limit(key)
            remaining, reset_s = answer.state.remaining, answer.state.reset_after
            if answer.limited:
                return Verdict("rate", remaining, reset_s, None, answer.state.retry_after)
        if limits.concurrent is not None and len(self._under_way.get(key, ())) >= limits.concurrent:
            return Verdict("concurrent", remaining, reset_s, None, CONCURRENT_RETRY_S)
        if limits.images_per_day is not None and images:
            left, retry_s = await self._images(key, limits.images_per_day, images)
            if retry_s:
                return Verdict("day", remaining, reset_s, left, retry_s)
        if limits.concurrent is not None:
            self._under_way.setdefault(key, set()).add(lease)
        return Verdict(None, remaining, reset_s, left, 0.0)

    async def give_back(self, key: str, lease: str) -> None:
        """See :class:`Budgets`; a request that was counted elsewhere has no effect."""
        under_way = self._under_way.get(key, set())
        under_way.discard(lease)
        if not under_way:
            self._under_way.pop(key, None)

    async def _images(self, key: str, quota: int, images: int) -> tuple[int, float]:
        """Take images. Returns how many are left, and 0 or the seconds until the quota resets."""
        day = self._day(quota)
        if images > 1:
            # The window counts refused images too: a request for more than are left must not take those.
            there = await day.peek(key)
            if there.remaining < images:
                return there.remaining, there.reset_after
        answer = await day.limit(key, images)
        return answer.state.remaining, answer.state.reset_after if answer.limited else 0.0


def _quota(per_second: float, burst: int) -> Quota:
    rate = max(Fraction(per_second).limit_denominator(_MAX_PERIOD_S), Fraction(1, _MAX_PERIOD_S))
    return per_duration(timedelta(seconds=rate.denominator), rate.numerator, burst)
