"""Ray Serve deployments, and how they call each other.

Only what does not import Ray is imported here: Ray reads its environment when it is imported, and a local cluster sets
that up first.
"""

from serve_app.deployments.demands import Demand, Room, demands, first_fit
from serve_app.deployments.options import GATEWAY, OPEN_GATEWAY, WORKER, deployment_options

__all__ = [
    "GATEWAY",
    "OPEN_GATEWAY",
    "WORKER",
    "Demand",
    "Room",
    "demands",
    "deployment_options",
    "first_fit",
]
