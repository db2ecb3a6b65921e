"""How many replicas there are: workers by the backlog of their queue, steps by the crops that wait for them."""

from serve_app.autoscaling.settings import BacklogAutoscaling, entry_replicas, step_replicas, worker_replicas
from serve_app.autoscaling.stats import CallerLoad, LoadInProgress, ReplicaLoad, call_load, worker_stats

__all__ = [
    "BacklogAutoscaling",
    "CallerLoad",
    "LoadInProgress",
    "ReplicaLoad",
    "call_load",
    "entry_replicas",
    "step_replicas",
    "worker_replicas",
    "worker_stats",
]
