"""What to keep of the many boxes that a detector proposes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["suppress"]


def suppress(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int64],
    iou: float,
    limit: int,
) -> npt.NDArray[np.int64]:
    """Non-maximum suppression in each class.

    Args:
        boxes: (K, 4) as x1, y1, x2, y2.
        scores: (K,).
        class_ids: (K,).
        iou: a box goes if it overlaps a better one of its class by more than this, 0..1.
        limit: how many boxes are kept at most.

    Returns:
        Indices of the boxes that stay, best first; of equal ones the earlier first.
    """
    order = np.argsort(-scores, kind="stable")
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(boxes[best, :2], boxes[rest, :2])
        shared = sides.clip(min=0).prod(axis=1)
        # not a division: boxes without an area have no overlap to divide
        overlaps = shared > iou * (areas[best] + areas[rest] - shared)
        order = rest[~(overlaps & (class_ids[rest] == class_ids[best]))]
    return np.array(kept, np.int64)
