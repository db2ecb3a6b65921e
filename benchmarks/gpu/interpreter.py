"""python -m benchmarks.gpu.interpreter: what many small calls cost beside a thread that runs Python. See README.md."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch

_ROUNDS = 30


def main() -> None:
    """Time 20 and 300 calls of torch on a small tensor, alone and beside a busy thread, by switch interval."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.interpreter", description=__doc__)
    parser.add_argument("--calls", type=int, nargs="+", default=[20, 300])
    parser.add_argument("--intervals-ms", type=float, nargs="+", default=[5.0, 1.0, 0.5, 0.2])
    options = parser.parse_args()
    print(f"| calls | alone | {' | '.join(f'{interval:g} ms' for interval in options.intervals_ms)} |")
    print("|---" * (2 + len(options.intervals_ms)) + "|")
    for calls in options.calls:
        cells = [_time(calls)]
        for interval in options.intervals_ms:
            sys.setswitchinterval(interval / 1000)
            with _busy():
                cells.append(_time(calls))
        print(f"| {calls} | {' | '.join(cells)} |")


def _time(calls: int) -> str:
    """Milliseconds, median and range; each call gives up the interpreter and takes it back, as those for a GPU do."""
    tensor, times = torch.rand(64), []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(calls):
                tensor = tensor * 1.0001
        times.append(1000 * (time.perf_counter() - start))
    return f"{median(times):.1f} [{min(times):.1f}, {max(times):.1f}]"


@contextmanager
def _busy() -> Iterator[None]:
    """Another thread runs Python meanwhile."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            sum(number * number for number in range(2000))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
