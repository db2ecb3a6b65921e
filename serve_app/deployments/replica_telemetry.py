"""Metrics and traces of a replica, from its constructor to its end."""

from __future__ import annotations

import functools

from ray import serve

from serve_app.telemetry.exporting import Exporter, export
from serve_app.telemetry.tracing import set_up_tracing, stop_tracing

__all__ = ["replica_labels", "replica_name", "start_telemetry", "stop_telemetry"]


def replica_name() -> str:
    """The id of this replica, as in the dashboard."""
    return serve.get_replica_context().replica_id.unique_id


def replica_labels() -> dict[str, str]:
    """What distinguishes this replica in metrics, traces and log lines."""
    context = serve.get_replica_context()
    return {"application": context.app_name, "deployment": context.deployment, "replica": replica_name()}


@functools.cache
def start_telemetry() -> Exporter | None:
    """Begin to export metrics, and traces where the environment asks for them; once for each process."""
    labels = replica_labels()
    set_up_tracing(**labels)
    return export(labels)


def stop_telemetry() -> None:
    """Withdraw the announcement of this replica, and export the traces that are left: it ends."""
    if start_telemetry.cache_info().currsize:
        if (exporter := start_telemetry()) is not None:
            exporter.close()
        stop_tracing()
        start_telemetry.cache_clear()
