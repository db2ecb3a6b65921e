"""Exports the metrics of a replica, from its constructor to its end."""

from __future__ import annotations

import functools

from ray import serve

from serve_app.telemetry.exporting import Exporter, export

__all__ = ["export_metrics", "replica_name", "stop_exporting_metrics"]


def replica_name() -> str:
    """The id of this replica, as in the dashboard."""
    return serve.get_replica_context().replica_id.unique_id


@functools.cache
def export_metrics() -> Exporter | None:
    """Begin to export, once for each process."""
    context = serve.get_replica_context()
    return export({"application": context.app_name, "deployment": context.deployment, "replica": replica_name()})


def stop_exporting_metrics() -> None:
    """Withdraw the announcement of this replica: it ends."""
    if export_metrics.cache_info().currsize and (exporter := export_metrics()) is not None:
        exporter.close()
        export_metrics.cache_clear()
