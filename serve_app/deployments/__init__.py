"""Ray Serve deployments, and how they call each other.

Only the options are imported here, for they do not import Ray: it reads its environment when it is imported, and a
local cluster sets that up first.
"""

from serve_app.deployments.options import (
    GATEWAY,
    OPEN_GATEWAY,
    WORKER,
    deployment_options,
    gateway_options,
    step_options,
    worker_options,
)

__all__ = [
    "GATEWAY",
    "OPEN_GATEWAY",
    "WORKER",
    "deployment_options",
    "gateway_options",
    "step_options",
    "worker_options",
]
