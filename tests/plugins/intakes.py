"""Consumers over toy classifiers in this process, and what tests ask of them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from toys import draw, encoded

from classifiers.imaging.decoding import ImageLimits
from graph import Engine, Plan, StepBackend, load_plan
from serve_app.config.gateway_config import FetchConfig
from serve_app.config.intake_config import SourcesConfig
from serve_app.images import KeptImages, KeptPlaces, Sources, Uploads
from serve_app.intake import Consumer, JobRunner, Pace, Retrier
from serve_app.queues import DeadLetter, Queue, queue_from_url
from serve_app.queues.dead_letters import hold
from serve_app.results import ResultStore, objects_from_uri, uri_below
from serve_app.telemetry.recording import StepRecorder

PIPELINE: dict[str, Any] = {
    "name": "toy",
    "limits": {"max_bytes": 100_000, "max_pixels": 1_000_000},
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
    ],
}

STREET = encoded(draw(("person", 10, 10, 50, 90), ("car", 100, 100, 180, 150)))

LIMITS = ImageLimits(max_bytes=100_000, max_pixels=1_000_000)


@dataclass(frozen=True)
class Place:
    """A queue, a store of results, and a folder of images."""

    url: str
    results: str
    images: Path
    store: ResultStore

    @property
    def uploads(self) -> Uploads:
        """Where images are kept that come with jobs."""
        return Uploads(objects_from_uri(uri_below(self.results, "images")), LIMITS.max_bytes)

    @property
    def kept(self) -> KeptPlaces:
        """What no rule opens."""
        return KeptPlaces(uri_below(self.results, "images"), self.results)

    def image(self, name: str = "street.png", data: bytes = STREET) -> str:
        """Put an image into the folder; its address."""
        (self.images / name).write_bytes(data)
        return f"file://{self.images / name}"

    async def publish(self, *messages: dict[str, Any] | bytes) -> None:
        """Put messages on the queue."""
        async with queue_from_url(self.url) as queue:
            await queue.publish([m if isinstance(m, bytes) else json.dumps(m).encode() for m in messages])

    async def letters(self) -> list[DeadLetter]:
        """What is in the queue of dead letters, each letter once."""
        queue = queue_from_url(self.url)
        async with queue, queue.dead() as dead, hold(dead, quiet_s=0.3) as held:
            return [each.letter for each in held]

    async def is_empty(self) -> bool:
        """Whether nothing waits and nothing is in flight, as far as the broker tells."""
        async with queue_from_url(self.url) as queue:
            stats = await queue.stats()
        return not stats.waiting and not stats.in_flight


@asynccontextmanager
async def place(folder: Path, url: str | None = None, results: str | None = None) -> AsyncIterator[Place]:
    """A place; by default a file and folders in ``folder``."""
    (folder / "images").mkdir()
    results = results or str(folder / "results")
    store = ResultStore.from_uri(results)
    yield Place(url or f"sqlite:///{folder}/jobs.db", results, folder / "images", store)
    await store.close()


@asynccontextmanager
async def consuming(
    at: Place,
    backend: StepBackend,
    *,
    plan: Plan | None = None,
    own: dict[str, Any] | None = None,
    clients: dict[str, Any] | None = None,
    queue: Callable[[Queue], Queue] = lambda queue: queue,
    store: ResultStore | None = None,
    reuse_results: bool = False,
    keep_images: str = "never",
    timeout_s: float = 30,
    max_attempts: int = 3,
    **pace: Any,
) -> AsyncIterator[Consumer]:
    """A consumer that runs until the block ends."""
    settings = Pace(**{"in_flight": 4, "retry_after_s": 0.1, "stop_s": 5, "wait_s": 0.2, **pace})
    retrier = Retrier()
    fetch = SourcesConfig.model_validate({"files": [str(at.images)], **(own or {})})
    sources = Sources(fetch, FetchConfig.model_validate(clients or {}), LIMITS, settings.in_flight, at.uploads, at.kept)
    plan = plan or load_plan(PIPELINE)
    engine = Engine(plan, backend, observer=StepRecorder(plan))
    runner = JobRunner(
        lambda: engine,
        store or at.store,
        sources,
        retrier,
        timeout_s=timeout_s,
        max_attempts=max_attempts,
        reuse_results=reuse_results,
        kept_images=KeptImages(at.uploads, (store or at.store).objects, keep_images),
    )
    consumer = Consumer(queue(queue_from_url(at.url)), store or at.store, runner, retrier, settings)
    consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


class Site:
    """A web server on loopback that answers as it is told."""

    def __init__(self) -> None:
        self.answers: dict[str, list[int]] = {}
        self.asked: Counter[str] = Counter()
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # headers and body in one packet: with two, Nagle's algorithm delays each answer by 40 ms

            def do_GET(self) -> None:
                site.asked[self.path] += 1
                status = site.answers[self.path].pop(0)
                self.send_response(status)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(STREET)))
                self.end_headers()
                self.wfile.write(STREET)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        self.rules = {"schemes": ["http"], "ports": [port], "private_networks": ["127.0.0.0/8"]}
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


async def until(what: Callable[[], Any], timeout_s: float = 20) -> Any:
    """Ask again until the answer is true, and give it. ``what`` may be a coroutine function."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        answer = what()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        await asyncio.sleep(0.02)
    raise TimeoutError(f"not true within {timeout_s} s")
