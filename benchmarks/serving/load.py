"""The client: wrk in a closed loop, aiohttp in an open one.

Closed: so many connections, each posting the next photo as soon as it has its answer. Open: requests come at random
moments at a given rate, whether the server keeps up or not, and a latency counts from the moment when the request was
due, not from when the client got round to sending it.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["closed_loop", "open_loop", "require_wrk"]

_TIMEOUT_S = 60
_SEED = 7


def require_wrk() -> None:
    """Raises: SystemExit: wrk is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("the benchmark's client is missing: apt-get install wrk")


def closed_loop(url: str, photos: Sequence[Path], concurrency: int, seconds: float) -> dict[str, Any]:
    """Post for so long with so many connections."""
    script = Path(__file__).with_name("closed_loop.lua")
    options = ["-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", f"--timeout={_TIMEOUT_S}s"]
    output = subprocess.run(
        ["wrk", *options, "-s", script, url, "--", *photos], check=True, capture_output=True, text=True
    ).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    images = result["answers"] - result["failures"]
    return {**result, "images": images, "images_per_s": images / result["seconds"]}


def open_loop(url: str, photos: Sequence[Path], rate: float, seconds: float) -> dict[str, Any]:
    """Post at this mean rate (Poisson arrivals), in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, url, str(rate), str(seconds), *map(str, photos)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output)
    return result


async def _post_at_rate(url: str, rate: float, seconds: float, bodies: Sequence[bytes]) -> dict[str, Any]:
    pick = random.Random(_SEED)
    answers: list[tuple[int, float, bool]] = []
    lateness: list[float] = []
    start = time.perf_counter()

    async def post(session: aiohttp.ClientSession, body: bytes, due: float) -> None:
        lateness.append(time.perf_counter() - due)
        try:
            async with session.post(url, data=body, headers={"Content-Type": "image/jpeg"}) as response:
                await response.read()
                status, has_advice = response.status, "Retry-After" in response.headers
        except (aiohttp.ClientError, TimeoutError):
            status, has_advice = 0, False
        answers.append((status, 1000 * (time.perf_counter() - due), has_advice))

    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        due, index = start, 0
        async with asyncio.TaskGroup() as tasks:
            while (due := due + pick.expovariate(rate)) < start + seconds:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tasks.create_task(post(session, bodies[index % len(bodies)], due))
                index += 1
    # To the last answer: what a server only answers later it has not served at that rate.
    elapsed = time.perf_counter() - start
    good = sorted(ms for status, ms, _ in answers if status == 200)
    refused = sorted(ms for status, ms, has_advice in answers if status == 503 and has_advice)
    return {
        "offered_per_s": index / seconds,
        "answers": len(answers),
        "images": len(good),
        "images_per_s": len(good) / elapsed,
        "seconds": elapsed,
        **{f"p{share}_ms": _percentile(good, share) for share in (50, 95, 99)},
        "refused": len(refused),
        "refused_p95_ms": _percentile(refused, 95),
        "unanswered": sum(status == 0 for status, _, _ in answers),
        "failures": len(answers) - len(good) - len(refused),
        "client_late_p99_ms": 1000 * (_percentile(sorted(lateness), 99) or 0),
    }


def _percentile(ordered: Sequence[float], share: int) -> float | None:
    return ordered[min(len(ordered) - 1, len(ordered) * share // 100)] if ordered else None


if __name__ == "__main__":
    _url, _rate, _seconds, *_paths = sys.argv[1:]
    _bodies = [Path(path).read_bytes() for path in _paths]
    print(json.dumps(asyncio.run(_post_at_rate(_url, float(_rate), float(_seconds), _bodies))))
