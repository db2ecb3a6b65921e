"""python -m benchmarks.autoscaling: simulates the hour for every broker, writes a JSON file and a picture."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.autoscaling.simulation import BROKERS, Demand, Fleet, Trace, judge, simulate

_SEEDS = range(1, 6)
_HERE = Path(__file__).parent
_OTHERS = {
    "a worker does 100 images/s": Fleet(images_per_worker_s=100, room=128),
    "thought to do 100, does 20": Fleet(guess=100),
    "thought to do 2, does 20": Fleet(guess=2),
    "20 to 30 s to start": Fleet(worker_start_s=(20, 30), step_start_s=(20, 30)),
    "at most 8 replicas of the step": Fleet(max_steps=8),
    "a worker holds 16 images": Fleet(room=16),
}
"""Other fleets, with Redis."""


def main() -> None:
    """Simulate, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_HERE, help="folder of the JSON and the picture")
    out: Path = parser.parse_args().out
    demand, fleet = Demand(), Fleet()
    traces = {broker.name: [simulate(demand, fleet, broker, seed) for seed in _SEEDS] for broker in BROKERS}
    verdicts = {name: [_judged(trace, demand) for trace in found] for name, found in traces.items()}
    others = {
        name: [_judged(simulate(demand, other, BROKERS[1], seed), demand) for seed in _SEEDS]
        for name, other in _OTHERS.items()
    }
    report = {
        "demand": asdict(demand) | {"ends_s": None},
        "fleet": asdict(fleet),
        "seeds": list(_SEEDS),
        "runs": verdicts,
        "others": others,
    }
    (out / "autoscaling.json").write_text(json.dumps(report, indent=1) + "\n")
    _draw({name: found[0] for name, found in traces.items() if name in ("redis", "sqs", "pubsub")}, out)
    _print(verdicts)
    _print(others)


def _judged(trace: Trace, demand: Demand) -> dict[str, Any]:
    workers = judge(trace, demand, trace.workers_needed, trace.workers_wanted, trace.workers_ready)
    steps = judge(trace, demand, trace.steps_needed, trace.steps_wanted, trace.steps_ready)
    return {"workers": asdict(workers), "steps": asdict(steps), "oldest_s": max(trace.oldest_s)}


def _print(verdicts: dict[str, list[dict[str, Any]]]) -> None:
    """Worst of all seeds, as the table of the README."""
    print("| queue | decided after | below the need for | turns | workers | steps below for | turns | steps | oldest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, runs in verdicts.items():
        cells = [
            f"{max(run[who][what] for run in runs):.0f}{unit}"
            for who, what, unit in (
                ("workers", "decided_after_s", " s"),
                ("workers", "longest_below_s", " s"),
                ("workers", "turns", ""),
                ("workers", "most", ""),
                ("steps", "longest_below_s", " s"),
                ("steps", "turns", ""),
                ("steps", "most", ""),
            )
        ]
        print(f"| {name} | {' | '.join(cells)} | {max(run['oldest_s'] for run in runs):.0f} s |")


def _draw(traces: dict[str, Trace], out: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, grid = plt.subplots(
        4, len(traces), figsize=(5.2 * len(traces), 9), sharex=True, sharey="row", squeeze=False
    )
    for column, (name, trace) in enumerate(traces.items()):
        minutes = [t / 60 for t in trace.t]
        arriving, waiting, workers, steps = grid[:, column]
        arriving.set_title(name)
        arriving.plot(minutes, trace.arriving, color="tab:gray")
        waiting.plot(minutes, trace.waiting, color="tab:red")
        for axes, needed, wanted, ready in (
            (workers, trace.workers_needed, trace.workers_wanted, trace.workers_ready),
            (steps, trace.steps_needed, trace.steps_wanted, trace.steps_ready),
        ):
            axes.fill_between(minutes, needed, step="post", color="tab:gray", alpha=0.4, label="needed")
            axes.step(minutes, wanted, where="post", color="tab:orange", label="wanted")
            axes.step(minutes, ready, where="post", color="tab:blue", linewidth=1, label="ready")
        steps.set_xlabel("minutes")
    labels = ("images a second", "messages waiting", "workers", "replicas of a step")
    for axes, label in zip(grid[:, 0], labels, strict=True):
        axes.set_ylabel(label)
    grid[2, 0].legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(out / "autoscaling.png", dpi=80)


if __name__ == "__main__":
    main()
