"""Budgets of keys: one replica, several with Redis between them, and Redis going away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gateways import PNG, app_over, client_of, config, post, problem
from redis.asyncio import Redis
from redis_server import RedisServer, need_redis_server

from graph import LocalBackend
from serve_app.access.budgets import DAY_S, Budgets, LocalBudgets
from serve_app.access.redis_budgets import RedisBudgets
from serve_app.config.gateway_config import Limits


class Clock:
    """The clock of throttled-py's store in memory."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1_700_000_000.0
        patch.setattr("throttled.utils.now_mono_f", lambda: self.now)
        patch.setattr("throttled.utils.now_sec", lambda: int(self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def taken(budgets: Budgets, limits: Limits, times: int = 1, images: int = 1, key: str = "k") -> list[str | None]:
    return [(await budgets.take(key, limits, images, f"l{random.random()}", 10)).refused for _ in range(times)]


class TestLocal:
    async def test_a_burst_and_then_the_rate(self, clock: Clock) -> None:
        budgets, limits = LocalBudgets(), Limits(requests_per_second=10, burst=5)
        assert await taken(budgets, limits, 7) == [None] * 5 + ["rate"] * 2
        clock.now += 0.101
        assert await taken(budgets, limits, 2) == [None, "rate"]
        clock.now += 100
        assert await taken(budgets, limits, 7) == [None] * 5 + ["rate"] * 2
        assert await taken(budgets, limits, key="other") == [None]

    @pytest.mark.parametrize("rate", [7, 0.3, 2.5, 10 / 3])
    async def test_exact_in_the_long_run(self, clock: Clock, rate: float) -> None:
        budgets, limits = LocalBudgets(), Limits(requests_per_second=rate, burst=3)
        passed = 0
        for _ in range(4_000):
            passed += (await taken(budgets, limits))[0] is None
            clock.now += 0.05
        assert passed == pytest.approx(rate * 200 + 3, rel=0.005, abs=1)

    async def test_what_is_said(self, clock: Clock) -> None:
        budgets, limits = LocalBudgets(), Limits(requests_per_second=2, burst=4)
        verdicts = [await budgets.take("k", limits, 1, "l", 10) for _ in range(5)]
        assert [v.remaining for v in verdicts] == [3, 2, 1, 0, 0]
        assert verdicts[-1].retry_after_s == pytest.approx(0.5, abs=1e-3)
        assert verdicts[-1].reset_s == pytest.approx(2.0, abs=1e-3)

    async def test_images_of_the_day(self, clock: Clock) -> None:
        budgets, limits = LocalBudgets(), Limits(images_per_day=10)
        assert await taken(budgets, limits, 2, images=4) == [None, None]
        assert await taken(budgets, limits, 3, images=4) == ["day"] * 3  # and it takes nothing
        assert await taken(budgets, limits, 3) == [None, None, "day"]
        verdict = await budgets.take("k", limits, 1, "l", 10)
        assert verdict.images_left == 0
        clock.now += verdict.retry_after_s
        assert int(clock.now) % DAY_S == 0
        assert await taken(budgets, limits, images=10) == [None]

    async def test_requests_under_way(self) -> None:
        budgets, limits = LocalBudgets(), Limits(concurrent=2)
        for lease in ("a", "b"):
            assert (await budgets.take("k", limits, 1, lease, 10)).refused is None
        assert (await budgets.take("k", limits, 1, "c", 10)).refused == "concurrent"
        await budgets.give_back("k", "a")
        await budgets.give_back("k", "a")
        assert (await budgets.take("k", limits, 1, "c", 10)).refused is None
        assert (await budgets.take("k", limits, 1, "d", 10)).refused == "concurrent"

    async def test_what_one_limit_refuses_takes_nothing_of_the_next(self, clock: Clock) -> None:
        budgets, limits = LocalBudgets(), Limits(images_per_day=3, concurrent=1)
        assert await taken(budgets, limits, 3) == [None, "concurrent", "concurrent"]
        budgets, limits = LocalBudgets(), Limits(images_per_day=1, concurrent=2)
        assert await taken(budgets, limits, 4) == [None, "day", "day", "day"]  # and their places are free again

    async def test_it_does_not_remember_every_address_for_ever(self, clock: Clock) -> None:
        budgets, limits = LocalBudgets(max_keys=50), Limits(concurrent=1)
        rate = Limits(requests_per_second=1, burst=1)
        for number in range(200):
            await budgets.take(f"k{number}", limits, 1, "l", 10)
            await budgets.give_back(f"k{number}", "l")
            await budgets.take(f"k{number}", rate, 1, "l", 10)
        assert await taken(budgets, rate, key="k199") == ["rate"]
        assert await taken(budgets, rate, key="k0") == [None]
        assert budgets._under_way == {}


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.port


@need_redis_server
class TestRedis:
    @pytest_asyncio.fixture
    async def redis(self, redis_port: int) -> AsyncIterator[Redis]:
        async with Redis(port=redis_port) as redis:
            await redis.flushdb()
            yield redis

    @pytest.fixture
    def budgets(self, redis_port: int, redis: Redis) -> RedisBudgets:
        return RedisBudgets(f"redis://127.0.0.1:{redis_port}", "test", 2)

    async def test_decides_as_the_one_in_this_process(self, budgets: RedisBudgets, monkeypatch: Any) -> None:
        """The same requests to both, by the clock of this machine."""
        local = LocalBudgets()
        kinds = [
            Limits(requests_per_second=0.01, burst=4, images_per_day=40, concurrent=3),
            Limits(requests_per_second=1 / 300),
            Limits(images_per_day=20),
            Limits(concurrent=2),
        ]
        chance, seen = random.Random(7), set()
        for number in range(400):
            which = chance.randrange(len(kinds))
            limits, key, images = kinds[which], f"k{which}-{number // 80}", chance.choice([0, 1, 1, 3])
            if chance.random() < 0.3:
                lease = f"l{chance.randrange(max(1, number))}"
                for one in (local, budgets):
                    await one.give_back(key, lease)
            expected, got = [await one.take(key, limits, images, f"l{number}", 600) for one in (local, budgets)]
            assert (got.refused, got.remaining, got.images_left) == (
                expected.refused,
                expected.remaining,
                expected.images_left,
            )
            assert got.reset_s == pytest.approx(expected.reset_s, abs=1)
            assert got.retry_after_s == pytest.approx(expected.retry_after_s, abs=1)
            seen.add(got.refused)
        assert seen == {None, "rate", "day", "concurrent"}
        assert not budgets._is_down

    async def test_a_request_whose_replica_died_ends_with_its_lease(self, budgets: RedisBudgets) -> None:
        limits = Limits(concurrent=1)
        assert (await budgets.take("k", limits, 1, "a", 0.2)).refused is None
        assert (await budgets.take("k", limits, 1, "b", 10)).refused == "concurrent"
        await asyncio.sleep(0.25)
        assert (await budgets.take("k", limits, 1, "b", 10)).refused is None

    async def test_nothing_stays_for_ever(self, budgets: RedisBudgets, redis: Redis) -> None:
        limits = Limits(requests_per_second=3, images_per_day=10, concurrent=3)
        await budgets.take("k", limits, 1, "l", 5)
        names = await redis.keys()
        assert len(names) == 3
        for name in names:
            assert 0 < await redis.ttl(name) <= DAY_S

    async def test_one_quota_for_two_gateways(self, backend: LocalBackend, redis_port: int) -> None:
        async with two_gateways(backend, config(rate_limits=limits_over(redis_port, images_per_day=25))) as clients:
            statuses = [r.status_code for r in await asyncio.gather(*(post(c) for c in clients * 20))]
            assert statuses.count(200) == 25
            refused = await post(clients[0])
            assert problem(refused, 429, "too-many-requests")["limit"] == 25
            assert refused.headers["ratelimit-remaining"] == "0"
            assert int(refused.headers["retry-after"]) <= DAY_S
            assert (await clients[0].get("/v1/pipeline")).status_code == 200  # asks for no image

    async def test_requests_under_way_in_two_gateways(self, backend: LocalBackend, redis_port: int) -> None:
        async with two_gateways(backend, config(rate_limits=limits_over(redis_port, concurrent=3))) as clients:
            for _ in range(3):  # and they are given back
                slow = {"metadata": '{"slow": 1}'}
                sent = [c.post("/v1/images", files={"image": PNG}, data=slow) for c in clients * 3]
                statuses = [r.status_code for r in await asyncio.gather(*sent)]
                assert statuses.count(200) == 3
                assert statuses.count(429) == 3

    @pytest.mark.slow
    async def test_killed_and_restarted_under_load(
        self, backend: LocalBackend, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = RedisServer(tmp_path)
        server.start()
        rules = config(num_replicas=2, rate_limits=limits_over(server.port, requests_per_second=40, burst=40))
        statuses: dict[str, list[int]] = {}
        async with two_gateways(backend, rules) as clients:

            async def load(phase: str, seconds: float) -> None:
                until, found = time.monotonic() + seconds, statuses.setdefault(phase, [])
                while time.monotonic() < until:
                    answers = await asyncio.gather(*(client.get("/v1/pipeline") for client in clients * 2))
                    found += [answer.status_code for answer in answers]

            await load("there", 1.0)
            await asyncio.to_thread(server.stop)
            await load("away", 2.5)
            await asyncio.to_thread(server.start)
            await load("back", 2.5)
            await asyncio.to_thread(server.stop)
        for found in statuses.values():
            assert set(found) <= {200, 429}
            assert 200 in found
            assert 429 in found  # neither open doors nor a closed shop
        # each gateway has half: 2 x (20/s x 2.5 s + a burst of 20)
        assert statuses["away"].count(200) <= 1.1 * (40 * 2.5 + 40)
        assert statuses["away"].count(200) >= 0.5 * 40 * 2.5
        gone = [r for r in caplog.records if "Redis is unavailable" in r.getMessage()]
        back = [r for r in caplog.records if "Redis is available again" in r.getMessage()]
        assert len(gone) == len(back) == 2  # once for each gateway


def limits_over(port: int, **limits: Any) -> dict[str, Any]:
    return {"default": limits, "redis_url": f"redis://127.0.0.1:{port}", "redis_prefix": f"t{random.random()}"}


class two_gateways(AsyncExitStack):  # noqa: N801 - reads as a function
    def __init__(self, backend: LocalBackend, rules: Any) -> None:
        super().__init__()
        self.apps = [app_over(backend, rules) for _ in range(2)]

    async def __aenter__(self) -> Any:
        return [await self.enter_async_context(client_of(app)) for app in self.apps]


class TestHeaders:
    async def test_what_is_left(self, backend: LocalBackend) -> None:
        rules = config(rate_limits={"default": {"requests_per_second": 1, "burst": 2}})
        async with client_of(app_over(backend, rules)) as client:
            first, second, third = [await client.get("/v1/pipeline") for _ in range(3)]
            assert first.headers["ratelimit-limit"] == "2"
            assert first.headers["ratelimit-policy"] == "2;w=2"
            assert [r.headers["ratelimit-remaining"] for r in (first, second, third)] == ["1", "0", "0"]
            assert problem(third, 429, "too-many-requests")["limit"] == 1
            assert third.headers["retry-after"] == "1"
            assert (await client.get("/healthz")).status_code == 200  # costs nothing

    async def test_an_address_is_a_key_where_nobody_has_one(self, backend: LocalBackend) -> None:
        app = app_over(backend, config(rate_limits={"default": {"requests_per_second": 0.1}}))
        for address, status in (
            ("192.0.2.1", 200),
            ("192.0.2.1", 429),
            ("192.0.2.2", 200),
            ("2001:db8::1", 200),
            ("2001:db8::2", 429),  # the same customer
            ("2001:db8:0:1::1", 200),
        ):
            async with client_of(app, address) as client:
                assert (await client.get("/v1/pipeline")).status_code == status

    async def test_without_redis_each_replica_has_its_share(self, backend: LocalBackend) -> None:
        rules = config(num_replicas=4, rate_limits={"default": {"requests_per_second": 1, "burst": 8}})
        async with client_of(app_over(backend, rules)) as client:
            assert [(await client.get("/v1/pipeline")).status_code for _ in range(3)] == [200, 200, 429]

    async def test_a_request_that_fails_gives_its_place_back(self, backend: LocalBackend) -> None:
        async with client_of(app_over(backend, config(rate_limits={"default": {"concurrent": 1}}))) as client:
            for _ in range(3):
                problem(await post(client, b"x"), 422)
