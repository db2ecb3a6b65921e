"""CPU time and memory of a system's processes, as the kernel counts them in /proc."""

from __future__ import annotations

import re
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import psutil

__all__ = ["MARK", "Groups", "kill_marked", "marked", "measured", "memory_mb", "settle"]

MARK = "VISIONGRAPH_BENCH_MARK"
"""Set in the environment of a system's first process; what that starts inherits it, daemons too."""

Groups = Sequence[tuple[str, str]]
"""(regular expression over the command line, name of the group; ``\\1`` is what the expression captured), first match
counts."""

_SETTLED_SHARE = 0.3  # of one core; Ray's own processes take about a tenth when idle
_SETTLE_S = 20.0


def marked(mark: str) -> dict[int, psutil.Process]:
    """The processes with this mark, and their children: one that gives itself a title may lose its environment."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found |= {other.pid: other for other in (process, *process.children(recursive=True))}
    return found


def kill_marked(mark: str) -> None:
    """End what is left of a system."""
    left = list(marked(mark).values())
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def measured(mark: str, groups: Groups, load: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Run a load, and add to what it says the CPU-milliseconds an image and the memory of each group.

    ``elsewhere_cores``: what processes that are neither the system nor the client took meanwhile; more than a few
    hundredths and the measurement is worth little.
    """
    before, client_before, busy_before, start = _cpu(mark), _children_cpu(), _busy(), time.perf_counter()
    result = dict(load())
    elapsed, busy = time.perf_counter() - start, _busy() - busy_before
    client, after = _children_cpu() - client_before, _cpu(mark)
    spent: defaultdict[str, float] = defaultdict(float)
    for process, seconds in after.items():
        with suppress(psutil.Error):
            spent[_group(process, groups)] += seconds - before.get(process, 0.0)
    images = max(1, result["images"])
    return {
        **result,
        "cpu_ms_per_image": {group: 1000 * seconds / images for group, seconds in sorted(spent.items())},
        "memory_mb": memory_mb(mark, groups),
        "client_cpu_ms_per_image": 1000 * client / images,
        "elsewhere_cores": max(0.0, (busy - client - sum(spent.values())) / elapsed),
    }


def memory_mb(mark: str, groups: Groups) -> dict[str, float]:
    """Memory of each group, in MiB; pages that processes share count once (PSS)."""
    memory: defaultdict[str, float] = defaultdict(float)
    for process in marked(mark).values():
        with suppress(psutil.Error):
            memory[_group(process, groups)] += process.memory_full_info().pss / 2**20
    return dict(sorted(memory.items()))


def settle(mark: str) -> None:
    """Wait until the system has done what the last load left it: requests whose client is gone may still be worked
    on."""
    end = time.monotonic() + _SETTLE_S
    while time.monotonic() < end:
        before = sum(_cpu(mark).values())
        time.sleep(0.5)
        if sum(_cpu(mark).values()) - before < 0.5 * _SETTLED_SHARE:
            return


def _cpu(mark: str) -> dict[psutil.Process, float]:
    seconds = {}
    for process in marked(mark).values():
        with suppress(psutil.Error):
            times = process.cpu_times()
            seconds[process] = times.user + times.system
    return seconds


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy() -> float:
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


def _group(process: psutil.Process, groups: Groups) -> str:
    command = " ".join(process.cmdline()) or process.name()
    for pattern, group in groups:
        if match := re.search(pattern, command):
            return match.expand(group)
    return "other"
