"""python -m benchmarks.checks PHOTOS: CPU time that the checks of what comes in cost an image. See README.md."""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import simplejpeg
import uvloop

from benchmarks.serving.settings import pipeline_of
from benchmarks.serving.workload import Workload, make_workloads
from classifiers.imaging.jpeg import jpeg_header
from graph import Engine, LocalBackend, load_plan
from serve_app.config.gateway_config import GatewayConfig
from serve_app.http.application import make_app

_METADATA = {"site": 7, "camera": "north-2", "taken": "2026-11-30T09:41:00Z", "tags": ["street", "day"]}
_NO_OP = {"name": "no-op", "pipeline": [{"name": "nothing", "class": "benchmarks.serving.noop.NoOpDetector"}]}


Request = tuple[bytes, bytes]
"""Content type and body."""


def requests_of(form: str, photos: Sequence[bytes]) -> list[Request]:
    """The photos as requests: ``bytes``, ``form`` or ``json``, the last two with metadata."""
    if form == "bytes":
        return [(b"image/jpeg", photo) for photo in photos]
    if form == "json":
        bodies = [{"base64": base64.b64encode(photo).decode(), "metadata": _METADATA} for photo in photos]
        return [(b"application/json", json.dumps(body).encode()) for body in bodies]
    head = b'--b\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n' + json.dumps(_METADATA).encode()
    head += b'\r\n--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return [(b"multipart/form-data; boundary=b", head + photo + b"\r\n--b--\r\n") for photo in photos]


@contextlib.contextmanager
def without_checks() -> Iterator[None]:
    """No colour profiles, no strict decoding, no checks at the entrance; for this benchmark alone."""

    async def as_it_comes(stream: AsyncIterator[bytes], _: bytes) -> AsyncIterator[bytes]:
        async for chunk in stream:
            yield chunk

    def decoded(data: bytes, _: Any, size: tuple[int, int], colours: str) -> Any:
        return simplejpeg.decode_jpeg(data, colours, min_height=size[0], min_width=size[1], strict=False)

    def always(answer: Any) -> Callable[..., Any]:  # which costs less than a mock
        return lambda *_, **__: answer

    decoding, bodies = "classifiers.imaging.decoding", "serve_app.http.bodies"
    with (
        mock.patch(f"{decoding}.is_srgb", always(True)),
        mock.patch(f"{decoding}.OpenedImage._profile", always(None)),
        mock.patch(f"{decoding}.jpeg_channels", decoded),
        mock.patch(f"{decoding}.unserved_kind", always(None)),
        mock.patch(f"{bodies}.as_browsers_write", as_it_comes),
        mock.patch(f"{bodies}.checked_metadata", lambda metadata: metadata),
        mock.patch(f"{bodies}.parse_metadata", lambda raw, _: json.loads(raw)),
        mock.patch(f"{bodies}.decode_base64", lambda text, start=0, end=None, **_: base64.b64decode(text[start:end])),
    ):
        yield


async def call(app: Any, request: Request) -> int:
    """One request, with as little around it as there may be."""
    done, status, body = asyncio.Event(), 0, [request[1]]

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"host", b"test"), (b"content-type", request[0]), (b"content-length", str(len(request[1])).encode())]
    scope = {"type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/v1/images"}
    more = {"raw_path": b"/v1/images", "query_string": b"", "root_path": "", "headers": headers}
    await app({**scope, **more, "client": ("192.0.2.1", 1234), "server": ("test", 80)}, receive, send)
    return status


async def cpu_ms(app: Any, requests: Sequence[Request], together: int) -> float:
    """CPU-ms per request of this process, all its threads, at the given concurrency."""
    waiting = list(requests)
    started = time.process_time()

    async def client() -> None:
        while waiting:
            assert await call(app, waiting.pop()) == 200

    await asyncio.gather(*(client() for _ in range(together)))
    return (time.process_time() - started) / len(requests) * 1000


async def compare(
    pipeline: dict[str, Any], requests: Sequence[Request], rounds: int, together: int
) -> list[list[float]]:
    """CPU-ms per request in each round, with the checks and without them."""
    plan = load_plan(pipeline)
    backend = LocalBackend(plan)
    engine = Engine(plan, backend)
    app = make_app(lambda: engine, GatewayConfig.model_validate({"auth": "none", "access_log": False}))
    found: list[list[float]] = [[], []]
    for index in range(rounds + 1):
        for variant in (0, 1) if index % 2 else (1, 0):
            with without_checks() if variant else contextlib.nullcontext():
                found[variant].append(await cpu_ms(app, requests, together))
    backend.close()
    return [times[1:] for times in found]  # the first round warms up


def say(name: str, found: list[list[float]], whole_ms: float | None = None) -> float:
    """Print a line; returns the CPU-ms with the checks."""
    with_checks, without = map(statistics.median, found)
    low, more, high = statistics.quantiles([a - b for a, b in zip(*found, strict=True)], n=4)
    whole = whole_ms or with_checks
    shares = ", ".join(f"{100 * part / whole:+.2f}%" for part in (low, more, high))
    print(
        f"| {name} | {with_checks:.2f} | {without:.2f} | {more:+.3f} ({low:+.3f} .. {high:+.3f}) | {shares} |",
        flush=True,
    )
    return with_checks


async def measure(options: argparse.Namespace, workload: Workload) -> None:
    """Measure the whole pipeline, then everything but the models."""
    photos = [photo for path in workload.photos if jpeg_header(photo := path.read_bytes()).icc is None]
    print(f"{workload.note}; {len(photos)} of them without a colour profile are sent")
    print(f"{options.rounds} rounds, {options.together} requests under way")
    print("| requests | CPU-ms with checks | without | difference (quartiles) | of the pipeline's |")
    print("|---|---|---|---|---|")
    pipeline = pipeline_of(workload.settings, {})
    whole = say("bytes", await compare(pipeline, requests_of("bytes", photos) * 2, options.rounds, options.together))
    for form in ("bytes", "form", "json"):
        found = await compare(_NO_OP, requests_of(form, photos) * 4, options.rounds, options.together)
        say(f"{form}, no model", found, whole)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checks", description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of JPEGs; those with a colour profile are left out")
    parser.add_argument("--models", type=Path, help="folder with a YOLO and a ViT; default: the demo's")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--together", type=int, default=8, help="requests under way at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        [workload], _ = make_workloads(["few"], options.models, options.photos, Path(folder), 1)
        uvloop.run(measure(options, workload))  # the loop of Serve's replicas


if __name__ == "__main__":
    main()
