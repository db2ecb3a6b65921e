"""One worker in a process of its own: the consumer as it runs on Serve, with a detector that does nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

import uvloop

from benchmarks.intake.noop import PLAN, NoopBackend
from classifiers.imaging.decoding import ImageLimits
from graph import Engine
from serve_app.config.gateway_config import FetchConfig
from serve_app.config.intake_config import SourcesConfig
from serve_app.images.job_sources import Sources
from serve_app.intake import Consumer, JobRunner, Pace, Retrier
from serve_app.queues import queue_from_url
from serve_app.results import ResultStore

IN_FLIGHT = 64


async def consume(queue: str, results: str, endpoint_url: str) -> None:
    """Consume until SIGTERM."""
    fetch = SourcesConfig.model_validate({"s3": {"allow": {"*": ["s3://photos"]}, "endpoint_url": endpoint_url}})
    store, retrier = ResultStore.from_uri(results), Retrier()
    sources = Sources(fetch, FetchConfig(), ImageLimits(), IN_FLIGHT)
    engine = Engine(PLAN, NoopBackend(PLAN))
    runner = JobRunner(lambda: engine, store, sources, retrier, timeout_s=60)
    consumer = Consumer(queue_from_url(queue), store, runner, retrier, Pace(in_flight=IN_FLIGHT))
    consumer.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await consumer.stop()


def main() -> None:
    """The arguments are queue, results, endpoint, and a file for a profile."""
    queue, results, endpoint_url, *profile = sys.argv[1:]
    with contextlib.ExitStack() as stack:
        if profile:
            import yappi

            yappi.set_clock_type("cpu")
            yappi.start()
            stack.callback(lambda: yappi.get_func_stats().save(profile[0], "pstat"))
        uvloop.run(consume(queue, results, endpoint_url))


if __name__ == "__main__":
    main()
