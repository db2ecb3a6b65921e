"""This project, in the configuration that `visiongraph serve` has; argument 2 says where the steps run."""

from __future__ import annotations

import contextlib
import sys
import time

from benchmarks.serving.settings import Settings, pipeline_of, placed
from serve_app.local.cluster import LOGGING, local_cluster


def main(port: int, placement: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = Settings.read()
    gateway, steps = placed(placement, settings.workers)
    with local_cluster(http_port=port, dashboard_port=None, min_cpus=16):
        from ray import serve

        from serve_app.app import AppArgs, build

        args = {"pipeline": pipeline_of(settings, steps), "gateway": {"auth": "none", **gateway}}
        serve.run(build(AppArgs.model_validate(args)), name="bench", logging_config=dict(LOGGING))
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
