"""The limit: the same models on the same cores in bare processes, which read the photos from memory."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.settings import Settings
from benchmarks.serving.straight import Straight

__all__ = ["Arrangement", "arrangements", "measure_bare"]


@dataclass(frozen=True)
class Arrangement:
    """Processes, threads of the models in each, and images that each takes at once."""

    processes: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.processes} x {self.threads} threads, batch {self.batch}"


def arrangements(cores: int) -> list[Arrangement]:
    """The grid of which the best is the limit."""
    shapes = {(cores, 1), (1, cores), (max(1, cores // 2), 2), (cores, 2)}
    return [Arrangement(*shape, batch) for shape in sorted(shapes) for batch in (1, 4, 16)]


def measure_bare(
    arrangement: Arrangement, photos: Sequence[Path], seconds: float, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Let all processes run for so long at the same time. The milliseconds are of one call with ``batch`` images."""
    command = [sys.executable, "-m", __spec__.name, str(arrangement.batch), str(seconds), *map(str, photos)]
    env = {**os.environ, **environment, "OMP_NUM_THREADS": str(arrangement.threads)}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(command, env=env, stdin=-1, stdout=-1, text=True))
            for _ in range(arrangement.processes)
        ]
        for worker in workers:
            if _line(worker) != "ready":
                raise RuntimeError("a bare process ended before it was ready; its error stands above")
        for worker in workers:
            worker.stdin.write("go\n")  # type: ignore[union-attr]
            worker.stdin.flush()  # type: ignore[union-attr]
        results = [json.loads(_line(worker)) for worker in workers]
    times = sorted(ms for result in results for ms in result["ms"])
    images = sum(result["images"] for result in results)
    return {
        "images": images,
        "images_per_s": sum(result["images"] / result["seconds"] for result in results),
        **{f"p{share}_ms": times[min(len(times) - 1, len(times) * share // 100)] for share in (50, 95, 99)},
        "cpu_ms_per_image": {"models": 1000 * sum(result["cpu_s"] for result in results) / images},
        "memory_mb": {"models": sum(result["memory_mb"] for result in results)},
        "failures": 0,
    }


def _line(worker: subprocess.Popen[str]) -> str:
    return worker.stdout.readline().strip()  # type: ignore[union-attr]


def _work(batch: int, seconds: float, paths: Sequence[str]) -> None:
    pipeline = Straight(Settings.read())
    photos = itertools.cycle([Path(path).read_bytes() for path in paths])
    for _ in range(3):
        pipeline([next(photos) for _ in range(batch)])
    print("ready", flush=True)
    sys.stdin.readline()
    times: list[float] = []
    cpu, start = time.process_time(), time.perf_counter()
    while (begun := time.perf_counter()) - start < seconds:
        json.dumps(pipeline([next(photos) for _ in range(batch)]))
        times.append(1000 * (time.perf_counter() - begun))
    result = {
        "images": batch * len(times),
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "ms": times,
        "memory_mb": psutil.Process().memory_full_info().pss / 2**20,
    }
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _work(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:])
