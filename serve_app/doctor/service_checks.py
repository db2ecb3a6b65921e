"""Whether what the application uses answers: Redis, the broker, the results store."""

from __future__ import annotations

import asyncio
import uuid

from classifiers import SetupError, VisionError
from classifiers.redaction import without_secrets
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.doctor.findings import Finding, error, ok
from serve_app.queues import queue_from_url
from serve_app.results import objects_from_uri

__all__ = ["check_services"]

_TIMEOUT_S = 10.0


def check_services(gateway: GatewayConfig | None, intake: IntakeConfig | None) -> list[Finding]:
    """Findings about the services, as this process reaches them."""
    found = []
    if gateway is not None and gateway.rate_limits.redis_url is not None:
        found.append(_check_redis(gateway.rate_limits.redis_url, gateway.rate_limits.redis_prefix))
    if intake is not None:
        found += [asyncio.run(_check_queue(intake.queue)), _check_store(intake.results)]
    return found


def _check_redis(url: str, prefix: str) -> Finding:
    try:
        import redis
    except ModuleNotFoundError:
        return error("Redis", "the package redis is not installed", "pip install 'visiongraph[redis]'")
    key = f"{prefix}:doctor:{uuid.uuid4().hex}"
    try:
        with redis.Redis.from_url(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as client:
            client.set(key, b"1", ex=60)
            client.delete(key)
    except (redis.RedisError, ValueError) as failure:
        fix = "see that it runs and may be written to; until then each gateway replica counts its share of the limits"
        return error("Redis", f"{without_secrets(url)}: {failure}", fix)
    return ok("Redis", f"{without_secrets(url)} can be written")


async def _check_queue(url: str) -> Finding:
    async def look() -> str:
        async with queue_from_url(url) as queue:
            stats = await queue.stats()
            return f"{queue.name}: {'?' if stats.waiting is None else stats.waiting} messages are waiting"

    try:
        return ok("broker", await asyncio.wait_for(look(), _TIMEOUT_S))
    except TimeoutError:
        return error(
            "broker", f"{without_secrets(url)} does not answer within {_TIMEOUT_S:g} s", "see that this node reaches it"
        )
    except VisionError as failure:
        fix = "correct intake.queue" if isinstance(failure, SetupError) else "see that it runs and this node reaches it"
        return error("broker", str(failure), fix)


def _check_store(uri: str) -> Finding:
    key = f"doctor/{uuid.uuid4().hex}"
    try:
        objects = objects_from_uri(uri)
        first = objects.create(key, b"first")
        second = objects.create(key, b"second")
        objects.delete(key)
    except SetupError as failure:
        return error("store", str(failure), "correct intake.results, or create what it names")
    except VisionError as failure:
        return error("store", str(failure), "see that this node reaches it, and may write and delete there")
    if not first or second:
        fix = "use S3, Google Cloud Storage, or a store that knows If-None-Match; else jobs have two outcomes"
        return error("store", f"{without_secrets(uri)} does not know conditional writes", fix)
    return ok("store", f"{without_secrets(uri)} can be written, conditionally too")
