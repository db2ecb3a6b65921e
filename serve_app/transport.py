"""How large a message between two replicas may be."""

from __future__ import annotations

from ray.serve._private.constants import RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH

__all__ = ["crop_budget_bytes"]

# Detections, contexts and pickle's own bytes beside the pixels.
_ROOM_BYTES = 512 * 1024


def crop_budget_bytes() -> int:
    """Pixels that one message may carry, of what ``RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH`` allows in this
    process."""
    return max(0, int(RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH) - _ROOM_BYTES)
