"""python -m benchmarks.intake.on_serve: the same on Ray Serve, with real workers, and models beside the bare ones."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import obstore
import psutil

from benchmarks.intake.__main__ import _PHOTOS, _ROOT, _wait, cpu, left_in, photo, publish
from benchmarks.serving.bare import Arrangement, measure_bare
from benchmarks.serving.settings import pipeline_of, placed
from benchmarks.serving.workload import make_workloads
from serve_app.buckets import s3_bucket
from serve_app.local.cluster import LOGGING
from serve_app.local.ports import free_port
from serve_app.queues import queue_from_url
from serve_app.results import objects_from_uri
from serve_app.results.compaction import compact
from serve_app.results.query import query

_BARE_S = 8.0
_TEXT = "text.jpg"  # an object that is no image


def main() -> None:
    """Print a line a round and placement of the steps: in the workers, and each a deployment of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.intake.on_serve", description=__doc__)
    parser.add_argument("--images", type=int, default=3_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--placements", nargs="+", choices=("workers", "apart"), default=["workers", "apart"])
    parser.add_argument("--photos", type=Path, help="serve the demo's models with the mix `few` of this folder's JPEGs")
    parser.add_argument("--broken", type=int, default=0, help="of 100 messages: half are no job, half name no image")
    parser.add_argument("--in-flight", type=int, help="images that a worker has in hand; default: the project's own")
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}
    os.environ |= {"PYTHONPATH": str(_ROOT), "RAY_AUTH_MODE": "disabled", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    port = free_port()
    broker = subprocess.Popen([sys.executable, "-m", "benchmarks.intake.aws", str(port)], cwd=_ROOT)
    try:
        _wait(port)
        with tempfile.TemporaryDirectory() as scratch:
            for line in _Bench(f"http://127.0.0.1:{port}", options, Path(scratch)).lines():
                print(line, flush=True)
    finally:
        broker.terminate()


class _Bench:
    """What is measured, and where its photos lie."""

    def __init__(self, url: str, options: argparse.Namespace, scratch: Path) -> None:
        self._url = url
        self._options = options
        self._workload = None
        if options.photos is not None:
            [self._workload], _ = make_workloads(["few"], None, options.photos, scratch, options.workers)
        photos = [path.read_bytes() for path in self._workload.photos] if self._workload else map(photo, range(_PHOTOS))
        bucket = s3_bucket("photos", "eu-west-1", url)
        self._names = []
        for index, data in enumerate(photos):
            self._names.append(f"{index}.jpg")
            obstore.put(bucket, self._names[-1], data)
        obstore.put(bucket, _TEXT, b"no image")

    def lines(self) -> Iterator[str]:
        """Serve, each round once with each placement, and first what the bare models do."""
        import ray
        from ray import serve

        ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        serve.start(http_options={"location": "NoServer"}, logging_config=dict(LOGGING))
        for _ in range(self._options.rounds):
            bare = self._bare()
            if bare is not None:
                yield f"bare models             {bare:6.0f} images/s"
            for placement in self._options.placements:
                yield self._line(placement, bare)
        serve.shutdown()
        ray.shutdown()

    def _bare(self) -> float | None:
        if self._workload is None:
            return None
        arrangement = Arrangement(self._options.workers, 1, 4)
        found = measure_bare(arrangement, self._workload.photos, _BARE_S, self._workload.environment)
        return float(found["images_per_s"])

    def _line(self, placement: str, bare: float | None) -> str:
        from ray import serve

        from serve_app.app import AppArgs, build

        options = self._options
        place = f"region=eu-west-1&endpoint_url={self._url}"
        queue, results = f"sqs://{uuid.uuid4().hex}?{place}&create=true", f"s3://{uuid.uuid4().hex}?{place}"
        fetch = {"s3": {"allow": {"*": ["s3://photos"]}, "endpoint_url": self._url}}
        intake = {"queue": queue, "results": results, "fetch": fetch, "num_replicas": options.workers}
        if options.in_flight is not None:
            intake["in_flight"] = options.in_flight
        args = AppArgs.model_validate({"pipeline": self._pipeline(placement), "intake": intake})
        self._publish(queue, "warm", 100)  # until all are there
        serve.run(build(args), name="bench", logging_config=dict(LOGGING))
        _drain(queue)
        processes = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "ServeReplica:bench" in " ".join(process.info["cmdline"] or [])
        ]
        cpu_before, started = sum(cpu(process.pid) for process in processes), time.monotonic()
        self._publish(queue, "i", options.images, options.broken)
        memory = _drain(queue, processes)
        seconds = time.monotonic() - started
        cpu_ms = 1000 * (sum(cpu(process.pid) for process in processes) - cpu_before) / options.images
        objects = objects_from_uri(results)
        compact(objects)
        [(rows,)] = query(objects, "SELECT count(DISTINCT id) FROM results WHERE id LIKE 'i%'").rows
        serve.delete("bench")
        rate = options.images / seconds
        where = "in the workers" if placement == "workers" else "apart"
        share = "" if bare is None else f", {rate / bare:.2f} of bare"
        return (
            f"steps {where:>14}: {rate:6.0f} images/s{share}, {cpu_ms:5.2f} CPU-ms an image in {len(processes)} "
            f"replicas, {rows} rows, memory {memory[0]:.0f} MB after a tenth, {memory[-1]:.0f} MB at the end"
        )

    def _pipeline(self, placement: str) -> dict[str, Any]:
        together = placement == "workers"
        if self._workload is None:
            step = {"name": "detect", "class": "benchmarks.intake.noop.NoopDetector"}
            return {"name": "noop", "pipeline": [step | ({"serve": {"colocate_with": "ingress"}} if together else {})]}
        _, serve = placed("colocated" if together else "separate", self._options.workers)
        return pipeline_of(self._workload.settings, serve)

    def _publish(self, queue_url: str, prefix: str, images: int, broken: int = 0) -> None:
        asyncio.run(publish(queue_url, [self._body(f"{prefix}{number}", number, broken) for number in range(images)]))

    def _body(self, job: str, number: int, broken: int) -> bytes:
        name = self._names[number % len(self._names)]
        if number % 100 < broken:
            if number % 2:
                return f"broken {job}".encode()
            name = _TEXT
        return json.dumps({"id": job, "uri": f"s3://photos/{name}"}).encode()


def _drain(queue_url: str, processes: Sequence[psutil.Process] = ()) -> list[float]:
    """Wait until the queue is empty; memory of the processes in MB (PSS), after each tenth of the messages."""

    async def drain() -> list[float]:
        first, memory = 0, []
        async with queue_from_url(queue_url) as queue:
            while True:
                left = await left_in(queue)
                first = first or left
                if left == 0:
                    return [*memory, _memory(processes)]
                if processes and left <= first * (0.9 - 0.1 * len(memory)):
                    memory.append(_memory(processes))
                await asyncio.sleep(0.2)

    return asyncio.run(drain())


def _memory(processes: Sequence[psutil.Process]) -> float:
    return sum(process.memory_full_info().pss for process in processes) / 2**20


if __name__ == "__main__":
    main()
