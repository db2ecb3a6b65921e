"""python -m chaos: a line a run, and exit code 1 if anything was lost, doubled or wrong."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

from brokers import AWS

from chaos.plan import BROKERS, Plan

_ROOT = Path(__file__).parents[3]


def main() -> int:
    """Carry out the plans of all seeds at all brokers, on one cluster."""
    parser = argparse.ArgumentParser(prog="chaos", description=sys.modules[__name__].__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--brokers", nargs="+", choices=BROKERS, default=BROKERS)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=10)
    parser.add_argument("--uploads", action="store_true", help="8 clients hand over the images themselves")
    options = parser.parse_args()
    plans = [
        Plan.of(seed, broker, options.images, options.faults, uploads=options.uploads)
        for seed in options.seeds
        for broker in options.brokers
    ]

    from serve_app.local.cluster import local_cluster
    from serve_app.local.ports import free_port

    os.environ |= AWS | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "plugins")])}
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request to moto
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # else a traceback for each connection that dies
    logging.getLogger("aio_pika").setLevel(logging.CRITICAL)
    failed = []
    with local_cluster(http_port=free_port(), dashboard_port=None, min_cpus=8, keep_logs=True) as cluster:
        from chaos.running import run

        for plan in plans:
            with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
                report = run(plan, Path(folder), cluster.http_url)
            _say(str(report))
            if report.findings:
                failed.append(plan)
                again = f"SEEDS={plan.seed} BROKERS={plan.broker} IMAGES={options.images} FAULTS={options.faults}"
                again += " UPLOADS=1" if options.uploads else ""
                _say(
                    f"  {plan}",
                    "  struck:",
                    *report.struck,
                    f"  {len(report.findings)} findings:",
                    *report.findings[:50],
                )
                _say(
                    f"  {len(report.findings)} findings; logs: {cluster.log_dir}/serve", f"  again: make chaos {again}"
                )
    _say(f"{len(plans) - len(failed)} of {len(plans)} runs were right")
    return 1 if failed else 0


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
