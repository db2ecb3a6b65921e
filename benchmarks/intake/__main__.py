"""python -m benchmarks.intake: images a second from SQS and S3 to Parquet, and whose CPU time an image takes."""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import obstore
import PIL.Image
import psutil

from serve_app.buckets import s3_bucket
from serve_app.local.ports import free_port
from serve_app.queues import Queue, queue_from_url
from serve_app.results import objects_from_uri
from serve_app.results.compaction import compact
from serve_app.results.query import query

_ROOT = Path(__file__).parents[2]
_PHOTOS = 20


@dataclass(frozen=True)
class Round:
    """What one round gave."""

    images_per_s: float
    worker_ms: float
    broker_ms: float
    parquet_ms: float
    peak_mb: float


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", metavar="FILE", help="write what the last worker's CPU time went into (pstats)")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}
    rounds = [one_round(options.images, options.workers, options.profile) for _ in range(options.rounds)]
    print(f"{options.images} images, {options.workers} worker(s), load {os.getloadavg()[0]:.1f} at the end")
    for name in Round.__dataclass_fields__:
        values = sorted(getattr(each, name) for each in rounds)
        print(f"{name:>14} {statistics.median(values):8.2f}   ({values[0]:.2f} to {values[-1]:.2f})")


def one_round(images: int, workers: int, profile: str | None) -> Round:
    """From an empty store to the last row."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    place = f"region=eu-west-1&endpoint_url={url}"
    queue_url, results = f"sqs://{uuid.uuid4().hex}?{place}&create=true", f"s3://results?{place}"
    broker = subprocess.Popen([sys.executable, "-m", "benchmarks.intake.aws", str(port)], cwd=_ROOT)
    running = [broker]
    try:
        _wait(port)
        photos = s3_bucket("photos", "eu-west-1", url)
        for index in range(_PHOTOS):
            obstore.put(photos, f"{index}.jpg", photo(index))
        jobs = [{"id": f"i{number}", "uri": f"s3://photos/{number % _PHOTOS}.jpg"} for number in range(images)]
        asyncio.run(publish(queue_url, [json.dumps(job).encode() for job in jobs]))
        broker_before, begun = cpu(broker.pid), time.monotonic()
        for index in range(workers):
            more = [profile] if profile and index == workers - 1 else []
            command = [sys.executable, "-m", "benchmarks.intake.worker", queue_url, results, url, *more]
            running.append(subprocess.Popen(command, cwd=_ROOT))
        # the start of Python and its imports is no part of it: from the first result to the last one
        objects = objects_from_uri(results)
        while not any(objects.keys("outcomes/")):
            if any(process.poll() is not None for process in running):
                sys.exit("the broker or a worker has ended; what it said stands above")
            time.sleep(0.05)
        started = {process.pid: cpu(process.pid) for process in running[1:]}
        first, done_before = time.monotonic(), waiting_for(queue_url)
        while waiting_for(queue_url):
            time.sleep(0.1)
        seconds = time.monotonic() - first
        worker_s = sum(cpu(pid) - before for pid, before in started.items())
        broker_s = cpu(broker.pid) - broker_before
        peak = max(psutil.Process(pid).memory_info().rss for pid in started) / 2**20
        before = time.process_time()
        compact(objects)
        parquet_s = time.process_time() - before
        rows = query(objects, "SELECT count(*), count(DISTINCT id) FROM results").rows
        assert rows == [(images, images)], f"{rows} after {time.monotonic() - begun:.0f} s"
        return Round(
            done_before / seconds,
            1000 * worker_s / done_before,
            1000 * broker_s / images,
            1000 * parquet_s / images,
            peak,
        )
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait()


def photo(seed: int) -> bytes:
    """A JPEG of about 100 KB."""
    pixels = np.random.default_rng(seed).integers(0, 255, (360, 480, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=75)
    return file.getvalue()


async def publish(queue_url: str, bodies: Sequence[bytes]) -> None:
    """Put all on the queue."""
    async with queue_from_url(queue_url) as queue:
        for start in range(0, len(bodies), 1000):
            await queue.publish(bodies[start : start + 1000])


async def left_in(queue: Queue) -> int:
    """Messages that wait or are in flight."""
    stats = await queue.stats()
    return (stats.waiting or 0) + (stats.in_flight or 0)


def waiting_for(queue_url: str) -> int:
    """The same of a queue that is not open."""

    async def ask() -> int:
        async with queue_from_url(queue_url) as queue:
            return await left_in(queue)

    return asyncio.run(ask())


def cpu(pid: int) -> float:
    """CPU seconds of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _wait(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)


if __name__ == "__main__":
    main()
