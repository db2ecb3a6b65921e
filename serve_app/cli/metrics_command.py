"""The command ``metrics``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from serve_app.cli.arguments import stderr

__all__ = ["metrics"]


def metrics(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.", file_okay=False)],
    availability: Annotated[
        float, typer.Option(help="Share of images that do not fail, over 30 days.", min=0.5, max=0.99999)
    ] = 0.999,
    image_s: Annotated[
        float, typer.Option(help="Seconds within which 95 of 100 images over HTTP have their result.", min=0.001)
    ] = 2.0,
    oldest_message_s: Annotated[
        float, typer.Option(help="Seconds that a message may wait in the queue.", min=1)
    ] = 300.0,
) -> None:
    """Write a Prometheus configuration, alert rules and a Grafana dashboard.

    Prometheus must run on the machine that is observed: it finds the processes through files in the folder that
    VISIONGRAPH_METRICS_DIR names, by default /tmp/visiongraph-metrics.

    Example: visiongraph metrics monitoring && prometheus --config.file=monitoring/prometheus.yml
    """
    from serve_app.monitoring import monitoring_files
    from serve_app.monitoring.alerts import Promises
    from serve_app.telemetry.exporting import ExportSettings

    promises = Promises(availability=availability, image_s=image_s, oldest_message_s=oldest_message_s)
    for name, text in monitoring_files(ExportSettings.from_environment().folder, promises).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        stderr.print(escape(str(path)), soft_wrap=True)
