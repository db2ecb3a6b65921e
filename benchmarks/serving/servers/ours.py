"""This project, in the configuration that `visiongraph serve` has; argument 2 says where the steps run, or is
``default``: what `visiongraph serve` itself chooses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.serving.settings import Settings, pipeline_of, placed
from serve_app.cli.main import app
from serve_app.local.cluster import LOGGING, local_cluster


def main(port: int, placement: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    settings = Settings.read()
    if placement == "default":
        _by_the_command_line(port, settings)
        return
    gateway, steps = placed(placement, settings.workers)
    with local_cluster(http_port=port, dashboard_port=None, min_cpus=16):
        from ray import serve

        from serve_app.app import AppArgs, build

        args = {"pipeline": pipeline_of(settings, steps), "gateway": {"auth": "none", **gateway}}
        serve.run(build(AppArgs.model_validate(args)), name="bench", logging_config=dict(LOGGING))
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)


def _by_the_command_line(port: int, settings: Settings) -> None:
    folder = Path(tempfile.mkdtemp(prefix="visiongraph-bench-"))
    os.environ.pop("OMP_NUM_THREADS")  # set for the other systems
    try:
        os.chdir(folder)  # it has the queue
        Path("pipeline.yaml").write_text(json.dumps(pipeline_of(settings, {})))
        sys.argv = ["visiongraph", "serve", "pipeline.yaml", "--port", str(port)]
        app(standalone_mode=False)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
