"""How many replicas there are: workers by the backlog of their queue, steps by the crops that wait for them."""

from serve_app.autoscaling.settings import BacklogAutoscaling, entry_replicas, step_replicas, worker_replicas
from serve_app.autoscaling.stats import CallerLoad, CropsInProgress, ReplicaLoad, worker_stats

__all__ = [
    "BacklogAutoscaling",
    "CallerLoad",
    "CropsInProgress",
    "ReplicaLoad",
    "entry_replicas",
    "step_replicas",
    "worker_replicas",
    "worker_stats",
]
