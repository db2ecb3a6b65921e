# ruff: noqa: E402 - the toys of the tests are found first
"""CPU time that the gateway's rules cost a request: the same application with them and without, turn by turn.

    python benchmarks/gateway/bench_gateway.py [--requests 160] [--rounds 40] [--together 16] [--redis redis://127.0.0.1:6379/9]

The application is called in this process, without sockets; the classifiers are toys, so that the rest weighs. What
counts is the difference to ``slice``: the application without rules, log, and watch over its client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

import uvloop

sys.path[:0] = [str(Path(__file__).parents[2] / "tests" / "plugins"), str(Path(__file__).parents[2])]

from gateways import PNG, config

from graph import Engine, LocalBackend, load_plan
from serve_app.access.key_file import create_key
from serve_app.http.application import make_app
from serve_app.telemetry.log_fields import FIELDS


def scope_of(key: str) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/images",
        "raw_path": b"/v1/images",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"test"),
            (b"content-type", b"image/png"),
            (b"content-length", str(len(PNG)).encode()),
            (b"authorization", f"Bearer {key}".encode()),
        ],
        "client": ("192.0.2.1", 1234),
        "server": ("test", 80),
    }


async def call(app: Any, key: str) -> int:
    """One request, with as little around it as there may be."""
    done, status = asyncio.Event(), 0
    body = [PNG]

    async def receive() -> dict[str, Any]:
        if body:
            return {"type": "http.request", "body": body.pop(), "more_body": False}
        await done.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope_of(key), receive, send)
    return status


async def measure(app: Any, key: str, requests: int, together: int) -> float:
    """CPU-ms a request of this process, with so many under way at a time."""
    gc.collect()
    started = time.process_time()

    async def client() -> None:
        for _ in range(requests // together):
            assert await call(app, key) == 200

    await asyncio.gather(*(client() for _ in range(together)))
    return (time.process_time() - started) / (requests // together * together) * 1000


async def _work(_request: Any, work: Any) -> Any:
    return await work


@contextlib.asynccontextmanager
async def _no_deadline(*_: Any, **__: Any) -> AsyncIterator[None]:
    yield


@contextlib.contextmanager
def only_the_slice(name: str) -> Iterator[None]:
    """For the first row: without the watch over the client and the deadline."""
    if name != "slice":
        yield
        return
    with mock.patch.multiple("serve_app.http.image_routes", unless_gone=_work, deadline=_no_deadline):
        yield


class _JsonLines(logging.StreamHandler[TextIO]):
    """Writes the fields of a request, as a replica does."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(vars(record)[FIELDS])


async def compare(arguments: argparse.Namespace, folder: Path) -> None:
    log = logging.getLogger("visiongraph.access")
    log.addHandler(_JsonLines((folder / "log").open("w")))
    log.setLevel(logging.INFO)
    log.propagate = False
    key = create_key(folder / "keys.json", "acme", ["infer"])
    auth = {"keys_file": str(folder / "keys.json")}
    limits = {"requests_per_second": 1e6, "burst": 1_000_000, "images_per_day": 10**9, "concurrent": 1000}
    plan = load_plan({"pipeline": [{"name": "says", "class": "toys.Says", "params": {"answer": {"x": 1}}}]})
    backend = LocalBackend(plan)
    engine = Engine(plan, backend)

    def application(**block: Any) -> Any:
        return make_app(lambda: engine, config(**block))

    with mock.patch("serve_app.http.application.access", return_value=[]):
        plain = application(access_log=False)
    applications = {
        "slice": plain,
        "auth: none": application(access_log=False),
        "log": application(),
        "log, key": application(auth=auth, rate_limits={"default": {}}),
        "log, key, limits": application(auth=auth, rate_limits={"default": limits}),
    }
    if arguments.redis:
        redis = {"default": limits, "redis_url": arguments.redis, "redis_prefix": "bench"}
        applications["log, key, limits in Redis"] = application(auth=auth, rate_limits=redis)
    found: dict[str, list[float]] = {name: [] for name in applications}
    for app in applications.values():
        await measure(app, key, 200, arguments.together)
    for _ in range(arguments.rounds):
        for name, app in applications.items():
            with only_the_slice(name):
                found[name].append(await measure(app, key, arguments.requests, arguments.together))
    print(f"{'application':28} {'CPU-ms':>8} {'more':>8}   {'quartiles':>16}")
    for name, rounds in found.items():
        differences = [ms - without for ms, without in zip(rounds, found["slice"], strict=True)]
        low, more, high = statistics.quantiles(differences, n=4)
        print(f"{name:28} {statistics.median(rounds):8.3f} {more:+8.3f}   {low:+7.3f} .. {high:+.3f}")
    backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--together", type=int, default=16, help="requests under way at a time")
    parser.add_argument("--redis", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(compare(arguments, Path(folder)))  # the loop of Serve's replicas


if __name__ == "__main__":
    main()
