"""python -m soak: a line an action, and exit code 1 if an answer was wrong."""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]


def main() -> int:
    """Carry out the actions in the order of the seed, once per round."""
    parser = argparse.ArgumentParser(prog="soak", description=sys.modules[__name__].__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1, help="how many times each action is carried out")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--deadline-s", type=float, default=30.0, help="of each request; default: the gateway's")
    parser.add_argument("--actions", nargs="+", help="default: all, in random order; for example 'kill haproxy'")
    options = parser.parse_args()

    from serve_app.local.cluster import local_cluster
    from serve_app.local.ports import free_port

    os.environ["PYTHONPATH"] = os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])
    with local_cluster(
        http_port=free_port(), dashboard_port=free_port(), min_cpus=8, num_gpus=0, keep_logs=True
    ) as cluster:
        from soak.running import ACTIONS, run

        chance = random.Random(options.seed)
        actions = []
        for _ in range(options.rounds):
            names = list(options.actions or ACTIONS)
            if not options.actions:
                chance.shuffle(names)
            actions += names
        report = run(cluster, actions, options.clients, options.deadline_s, _say)
    _say(f"answers by status: {dict(sorted(report.counts.items()))}")
    for finding in report.findings[:50]:
        _say(f"  {finding}")
    if report.findings:
        _say(f"{len(report.findings)} findings; logs: {cluster.log_dir}/serve; again: make soak SEED={options.seed}")
    return 1 if report.findings else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
