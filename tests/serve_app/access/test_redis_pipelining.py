from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis_server import RedisServer, need_redis_server

from serve_app.access.redis_pipelining import PipeliningRedis

pytestmark = need_redis_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest_asyncio.fixture
async def redis(server: RedisServer) -> AsyncIterator[PipeliningRedis]:
    retry = Retry(NoBackoff(), 1)
    async with PipeliningRedis(port=server.port, decode_responses=True, retry=retry) as redis:
        await redis.flushdb()
        yield redis


async def test_what_is_asked_together_goes_together(redis: PipeliningRedis) -> None:
    await asyncio.gather(*(redis.incr("n") for _ in range(50)))
    assert await redis.get("n") == "50"
    # one command went first, and the others after it over a second connection, not over fifty
    assert len(await redis.client_list()) <= 2


async def test_each_caller_gets_its_own_answer(redis: PipeliningRedis) -> None:
    await redis.set("word", "abc")
    for _ in range(2):
        first, bad, last = await asyncio.gather(
            redis.get("word"), redis.incr("word"), redis.strlen("word"), return_exceptions=True
        )
        assert (first, last) == ("abc", 3)
        assert isinstance(bad, ResponseError)


async def test_a_caller_that_goes_takes_nobody_with_it(redis: PipeliningRedis) -> None:
    for gone in (0, 1):  # the one whose command is on its way, and one that waits
        calls = [asyncio.create_task(redis.incr(f"n{gone}")) for _ in range(4)]
        await asyncio.sleep(0)
        calls[gone].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers.pop(gone), (asyncio.CancelledError, int))  # redis may finish what is on its way
        assert all(isinstance(answer, int) for answer in answers)
        assert await redis.ping()


async def test_a_server_that_is_away(server: RedisServer, redis: PipeliningRedis) -> None:
    await redis.ping()
    server.stop()
    answers = await asyncio.gather(*(redis.ping() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(answer, (RedisConnectionError, OSError)) for answer in answers)
    server.start()
    assert await redis.ping()
