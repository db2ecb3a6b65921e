"""python -m benchmarks.intake.on_serve: the same on Ray Serve, with real workers, handles and decoded images."""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import obstore
import psutil

from benchmarks.intake.__main__ import _PHOTOS, _ROOT, _wait, cpu, photo, publish, waiting_for
from serve_app._ports import free_port
from serve_app.buckets import s3_bucket
from serve_app.results import objects_from_uri
from serve_app.results.compaction import compact
from serve_app.results.query import query


def main() -> None:
    """Print a line a placement of the detector: in the workers, and in a deployment of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "eu-west-1"}
    os.environ |= {"PYTHONPATH": str(_ROOT), "RAY_AUTH_MODE": "disabled", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
    port = free_port()
    broker = subprocess.Popen([sys.executable, "-m", "benchmarks.intake.aws", str(port)], cwd=_ROOT)
    try:
        _wait(port)
        url = f"http://127.0.0.1:{port}"
        photos = s3_bucket("photos", "eu-west-1", url)
        for index in range(_PHOTOS):
            obstore.put(photos, f"{index}.jpg", photo(index))
        for line in measure(url, options.images, options.workers):
            print(line, flush=True)
    finally:
        broker.terminate()


def measure(url: str, images: int, workers: int) -> Iterator[str]:
    """Serve, once with each placement."""
    import ray
    from ray import serve

    from serve_app.app import AppArgs, build

    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    serve.start(http_options={"location": "NoServer"}, logging_config={"enable_access_log": False})
    for placement in ("ingress", None):
        place = f"region=eu-west-1&endpoint_url={url}"
        queue, results = f"sqs://{uuid.uuid4().hex}?{place}&create=true", f"s3://{uuid.uuid4().hex}?{place}"
        step: dict[str, Any] = {"name": "detect", "class": "benchmarks.intake.noop.NoopDetector"}
        step["serve"] = {"colocate_with": placement} if placement else {}
        fetch = {"s3": {"allow": {"*": ["s3://photos"]}, "endpoint_url": url}}
        intake = {"queue": queue, "results": results, "fetch": fetch, "num_replicas": workers, "in_flight": 32}
        args = AppArgs.model_validate({"pipeline": {"name": "noop", "pipeline": [step]}, "intake": intake})
        asyncio.run(publish(queue, 100, "warm"))  # until all are
        serve.run(build(args), name="noop")
        while waiting_for(queue):
            time.sleep(0.1)
        pids = [
            p.pid for p in psutil.process_iter(["cmdline"]) if "ServeReplica:noop" in " ".join(p.info["cmdline"] or [])
        ]
        before, started = sum(map(cpu, pids)), time.monotonic()
        asyncio.run(publish(queue, images))
        while waiting_for(queue):
            time.sleep(0.1)
        seconds, cpu_s = time.monotonic() - started, sum(map(cpu, pids)) - before
        objects = objects_from_uri(results)
        compact(objects)
        [(rows,)] = query(objects, "SELECT count(DISTINCT id) FROM results WHERE id LIKE 'i%'").rows
        serve.delete("noop")
        where = "in the workers" if placement else "of its own"
        yield (
            f"detector {where:>15}: {images / seconds:6.0f} images/s, {1000 * cpu_s / images:5.2f} CPU-ms an image in "
            f"{len(pids)} replicas, {rows} rows, load {os.getloadavg()[0]:.1f}"
        )
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
