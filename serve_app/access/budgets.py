"""What each key has left: its rate with burst, its images of the day, its requests under way.

The counting is throttled-py's: the rate is its GCRA (ITU-T I.371), which lets through neither twice the burst at a
border nor less than the rate, and tells what is left in the same go; the images are its fixed window, from midnight to
midnight UTC. It knows nothing of requests under way, and no kept library does that refuses at once instead of waiting,
so these are counted here: a set of names a key. :mod:`.redis_budgets` counts the same for many replicas.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import Literal, Protocol

from throttled.asyncio import MemoryStore, RateLimiterType, Throttled, per_day, per_duration
from throttled.asyncio.rate_limiter import Quota

from serve_app.config import Limits

__all__ = ["CONCURRENT_RETRY_S", "DAY_S", "Budgets", "LocalBudgets", "Refusal", "Verdict"]

DAY_S = 86_400

# When one of the requests under way ends, nobody knows.
CONCURRENT_RETRY_S = 1.0

# Keys of which this process remembers something, the last used first: with `auth: none` each client address is one.
_MAX_KEYS = 100_000

# throttled-py takes a rate as a whole number in whole seconds.
_MAX_PERIOD_S = 1_000_000

Refusal = Literal["rate", "day", "concurrent"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass, and what its key has left.

    Attributes:
        refused: which of the limits said no; ``None``: the request may pass.
        remaining: requests that may come at once after this one; ``None`` where the rate is not limited.
        reset_s: seconds until the burst is there again in full.
        images_left: of the day; ``None`` where they are not limited, or were not asked for.
        retry_after_s: seconds after which the same request may pass; 0 where it did.
    """

    refused: Refusal | None
    remaining: int | None
    reset_s: float
    images_left: int | None
    retry_after_s: float


class Budgets(Protocol):
    """Decides, and counts what has passed."""

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:
        """Let a request pass or not. What is refused for one limit takes nothing of those after it.

        Args:
            key: whose budget.
            limits: the budget, asked in this order: rate, requests under way, images.
            images: that the request wants to run.
            lease: names the request until it is given back.
            lease_s: after that time it counts as ended in any case.
        """

    async def give_back(self, key: str, lease: str) -> None:
        """The request has ended."""


class LocalBudgets:
    """Counts in this process. Use it from one event loop.

    Args:
        max_keys: of so many something is remembered, the last used first.
    """

    def __init__(self, max_keys: int = _MAX_KEYS) -> None:
        self._store = MemoryStore(options={"MAX_SIZE": max_keys})
        self._limiters: dict[tuple[str, float, int], Throttled] = {}
        self._under_way: dict[str, set[str]] = {}

    async def take(self, key: str, limits: Limits, images: int, lease: str, lease_s: float) -> Verdict:  # noqa: ARG002 - no lease is left behind
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
        """See :class:`Budgets`; of a request that was counted elsewhere nothing happens."""
        under_way = self._under_way.get(key, set())
        under_way.discard(lease)
        if not under_way:
            self._under_way.pop(key, None)

    async def _images(self, key: str, per_day: int, images: int) -> tuple[int, float]:
        """Take images: how many are left, and 0 or the seconds until there are new ones."""
        day = self._day(per_day)
        if images > 1:
            # The window counts what it refuses too, and many that do not fit must not take those that are left.
            there = await day.peek(key)
            if there.remaining < images:
                return there.remaining, there.reset_after
        answer = await day.limit(key, images)
        return answer.state.remaining, answer.state.reset_after if answer.limited else 0.0

    def _rate(self, per_second: float, burst: int) -> Throttled:
        limiter = self._limiters.get(("rate", per_second, burst))
        return limiter or self._new("rate", per_second, burst, RateLimiterType.GCRA, _quota(per_second, burst))

    def _day(self, images: int) -> Throttled:
        limiter = self._limiters.get(("day", images, 0))
        return limiter or self._new("day", images, 0, RateLimiterType.FIXED_WINDOW, per_day(images))

    def _new(self, kind: str, amount: float, burst: int, algorithm: RateLimiterType, quota: Quota) -> Throttled:
        limiter = Throttled(using=algorithm.value, quota=quota, store=self._store)
        self._limiters[kind, amount, burst] = limiter
        return limiter


def _quota(per_second: float, burst: int) -> Quota:
    rate = max(Fraction(per_second).limit_denominator(_MAX_PERIOD_S), Fraction(1, _MAX_PERIOD_S))
    return per_duration(timedelta(seconds=rate.denominator), rate.numerator, burst)
