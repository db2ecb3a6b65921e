"""python -m benchmarks.serving: what serving costs on top of the models alone. See README.md."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.serving.bare import Arrangement, arrangements, measure_bare
from benchmarks.serving.endurance import measure_memory, measure_overload
from benchmarks.serving.load import closed_loop, open_loop, require_wrk
from benchmarks.serving.processes import measured, settle
from benchmarks.serving.report import write_report
from benchmarks.serving.straight import Straight
from benchmarks.serving.systems import SYSTEMS, Running, System, post, running
from benchmarks.serving.verification import differences
from benchmarks.serving.workload import MIXES, Workload, make_workloads

_PARTS = ("table", "memory", "overload")
_ESSENTIAL_SYSTEMS = ("default", "ours", "ours-colocated", "plain-ray-serve", "mosec", "litserve", "bentoml")
_ESSENTIAL_MIXES = ("few", "no-op")
# For the parts that are about one server, not about which is faster.
_OWN = ("ours", "ours-colocated")


def main() -> None:
    """Measure what is asked for, and write the report after each round and each server."""
    options = _options()
    require_wrk()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="visiongraph-bench-") as scratch:
        workloads, problems = make_workloads(
            options.mixes, options.models, options.photos, Path(scratch), options.workers
        )
        report: dict[str, Any] = {
            "machine": _machine(),
            "options": {key: str(value) for key, value in vars(options).items() if not isinstance(value, Path)},
            "mixes": {workload.name: workload.note for workload in workloads},
            "problems": problems,
            "cells": [],
            "memory": [],
            "overload": [],
        }
        bench = _Bench(options, report)
        if "table" in options.only:
            _table(bench, workloads, options, report)
        for part in ("overload", "memory"):
            for workload in workloads if part in options.only else ():
                # An empty pipeline has no capacity that a model would set.
                if workload.settings.crops:
                    for name in (name for name in options.systems if name in _OWN):
                        bench.endure(part, name, workload)
                        write_report(report, out)
    print((out / "report.md").read_text())


def _table(bench: _Bench, workloads: Sequence[Workload], options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Every system in turn, round after round."""
    limits = {workload.name: bench.find_limit(workload) for workload in workloads}
    for number in range(options.rounds):
        for workload in workloads:
            bench.bare(workload, limits[workload.name], number)
            for name in options.systems:
                bench.serve(name, workload, number)
            write_report(report, options.out)


class _Bench:
    """Runs the cells of one benchmark and gathers them in the report."""

    def __init__(self, options: argparse.Namespace, report: dict[str, Any]) -> None:
        self._options = options
        self._report = report
        self._rates: dict[str, float] = {}

    def find_limit(self, workload: Workload) -> tuple[Arrangement, Arrangement]:
        """The arrangement with the most images a second, and the one in which a single image takes least time."""
        tried = {}
        grid = arrangements(self._options.workers)
        if not workload.settings.crops:  # nothing to arrange where nothing is computed
            grid = [arrangement for arrangement in grid if arrangement.batch == arrangement.threads == 1]
        for arrangement in grid:
            result = measure_bare(arrangement, workload.photos, self._options.seconds / 2, workload.environment)
            tried[arrangement] = result
            print(
                f"limit {workload.name}: {arrangement}: {result['images_per_s']:.1f}/s, p50 {result['p50_ms']:.1f} ms"
            )
        most = max(tried, key=lambda arrangement: tried[arrangement]["images_per_s"])
        alone = [a for a in tried if (a.processes, a.batch) == (1, 1)] or list(tried)
        self._rates[workload.name] = tried[most]["images_per_s"]
        return most, min(alone, key=lambda arrangement: tried[arrangement]["p50_ms"])

    def bare(self, workload: Workload, limit: tuple[Arrangement, Arrangement], number: int) -> None:
        """The limit: once for images a second, once for the time of a single image."""
        for load, arrangement in zip(("most", "single"), limit, strict=True):
            result = measure_bare(arrangement, workload.photos, self._options.seconds, workload.environment)
            self._keep("bare", workload, load, number, result | {"arrangement": str(arrangement)})

    def serve(self, name: str, workload: Workload, number: int) -> None:
        """All loads of one server. One that cannot be started is a problem in the report, not the end."""
        system, log = SYSTEMS[name], self._options.out / f"{name}.log"
        try:
            with running(system, self._options.port, workload.environment, workload.photos[0], log) as server:
                if number == 0:
                    self._verify(name, system, workload, server)
                self._loads(name, system, workload, number, server)
        except RuntimeError as error:
            print(f"{name}: {error}")
            self._report["problems"].append(f"{name}, {workload.name}: {error}")

    def endure(self, part: str, name: str, workload: Workload) -> None:
        """One server over a long time, or with too much. One that cannot be started is a problem in the report."""
        system, log, options = SYSTEMS[name], self._options.out / f"{name}.log", self._options
        try:
            with running(system, options.port, workload.environment, workload.photos[0], log) as server:
                closed_loop(server.url, workload.photos, max(options.concurrency), 2)  # to warm up
                if part == "memory":
                    result = measure_memory(server, system.groups, workload.photos, options.requests)
                else:
                    result = measure_overload(server, system.groups, workload.photos, options.overload_seconds)
        except RuntimeError as error:
            print(f"{name}: {error}")
            self._report["problems"].append(f"{part} of {name}, {workload.name}: {error}")
            return
        self._report[part].append({"system": name, "mix": workload.name, **result})
        print(f"{part}  {workload.name} {name}: {json.dumps({k: v for k, v in result.items() if k != 'samples'})}")

    def _loads(self, name: str, system: System, workload: Workload, number: int, server: Running) -> None:
        seconds = self._options.seconds
        closed_loop(server.url, workload.photos, max(self._options.concurrency), max(1, seconds / 4))  # to warm up
        for concurrency in self._options.concurrency:
            settle(server.mark)
            result = measured(
                server.mark, system.groups, lambda c=concurrency: closed_loop(server.url, workload.photos, c, seconds)
            )
            self._keep(name, workload, f"closed {concurrency}", number, result)
        # An empty pipeline has no rate that the machine's models would set.
        for share in self._options.open if workload.settings.crops else ():
            settle(server.mark)
            rate = share * self._rates[workload.name]
            result = measured(
                server.mark, system.groups, lambda r=rate: open_loop(server.url, workload.photos, r, seconds)
            )
            self._keep(name, workload, f"open {share:g}", number, result)

    def _verify(self, name: str, system: System, workload: Workload, server: Running) -> None:
        """Every photo must get the result that the bare models give: who does less is not faster."""
        os.environ.update(workload.environment)
        straight = Straight(workload.settings)
        for photo in dict.fromkeys(workload.photos):
            answer = json.loads(post(server.url, photo.read_bytes()))
            wrong = differences(straight([photo.read_bytes()])[0], answer[system.answer] if system.answer else answer)
            if wrong:
                raise RuntimeError(f"{photo.name} has another result than from the bare models: {wrong}")
        print(f"{name}, {workload.name}: results are those of the bare models")

    def _keep(self, name: str, workload: Workload, load: str, number: int, result: dict[str, Any]) -> None:
        self._report["cells"].append(
            {"system": name, "mix": workload.name, "load": load, "round": number + 1, **result}
        )
        p50 = result["p50_ms"]
        print(
            f"round {number + 1}  {workload.name:6} {name:16} {load:10} {result['images_per_s']:8.1f}/s  "
            f"p50 {'-' if p50 is None else f'{p50:.1f}'} ms  failures {result['failures']}",
            flush=True,
        )


def _machine() -> dict[str, Any]:
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    packages = ("ray", "openvino", "torch", "numpy", "pillow", "simplejpeg")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--only",
        type=_one_of(_PARTS),
        default=list(_PARTS),
        help="table: all systems side by side; memory: ours over --requests; overload: ours at 4 times its capacity",
    )
    parser.add_argument(
        "--systems", type=_one_of(SYSTEMS), default=list(_ESSENTIAL_SYSTEMS), help="of " + ", ".join(SYSTEMS)
    )
    parser.add_argument("--mixes", type=_one_of(MIXES), default=list(_ESSENTIAL_MIXES), help="of " + ", ".join(MIXES))
    parser.add_argument("--models", type=Path, help="folder with YOLO11n and ViT; default: the models of the demo")
    parser.add_argument("--photos", type=Path, default=_shipped_photos(), help="folder of JPEGs to choose from")
    parser.add_argument("--concurrency", type=_numbers(int), default=[1, 16], help="connections, for example 1,4,16,64")
    parser.add_argument("--open", type=_numbers(float), default=[], help="open loop: rates, as shares of the limit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--requests", type=int, default=10_000, help="over which memory is watched")
    parser.add_argument("--overload-seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes a heavy step")
    parser.add_argument("--port", type=int, default=18000)
    parser.add_argument("--out", type=Path, default=Path("runs/serving"))
    parser.add_argument("--quick", action="store_true", help="a smoke run of the same: one round, a second each")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.requests, options.overload_seconds = 1, 1.0, 300, 5.0
    return options


def _shipped_photos() -> Path:
    from serve_app.cli.demo import demo_photos

    return demo_photos()[0].parent


def _one_of(known: Any) -> Any:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return names

    return parse


def _numbers(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> Sequence[float]:
        return [kind(part) for part in text.split(",")]

    return parse


if __name__ == "__main__":
    main()
