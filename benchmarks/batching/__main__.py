"""python -m benchmarks.batching: `BatchGate` before `@serve.batch`, against `@serve.batch` alone. See README.md."""

from __future__ import annotations

import argparse
import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from serve_app.local.cluster import local_cluster

_BATCHERS = {
    "admission": {"admission": True, "wait_s": 0.0},
    "@serve.batch, wait 0 ms": {"admission": False, "wait_s": 0.0},
    "@serve.batch, wait 10 ms": {"admission": False, "wait_s": 0.010},
    "@serve.batch, wait 50 ms": {"admission": False, "wait_s": 0.050},
}


def main() -> None:
    """Measure in turn, round after round, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--out", type=Path, default=Path("runs/batching"))
    options = parser.parse_args()
    with local_cluster(http_port=18000, dashboard_port=None) as cluster:
        # Not before the cluster's environment is set, which Ray reads when it is imported.
        from ray import serve

        from benchmarks.batching.batcher import Batcher

        serve.run(Batcher.bind(), name="bench")  # type: ignore[attr-defined]
        cells = []
        for _ in range(options.rounds):
            for callers in (64, 1):
                for name, setting in _BATCHERS.items():
                    load = {**setting, "callers": callers, "seconds": options.seconds}
                    cells.append({"batcher": name, "callers": callers, **_measure(cluster.http_url, load)})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(cells, indent=1))
    lines = ["| batcher | callers | items/s | p50 ms | mean batch |", "|---|---|---|---|---|"]
    for callers in (64, 1):
        for name in _BATCHERS:
            own = [cell for cell in cells if (cell["batcher"], cell["callers"]) == (name, callers)]
            figures = [f"{median(cell[key] for cell in own):.1f}" for key in ("items_per_s", "p50_ms", "mean_batch")]
            lines.append(f"| {name} | {callers} | {' | '.join(figures)} |")
    (options.out / "report.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _measure(url: str, setting: Mapping[str, Any]) -> dict[str, float]:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(setting).encode())) as response:
        result: dict[str, float] = json.loads(response.read())
    return result


if __name__ == "__main__":
    main()
