"""What to keep of the many boxes that a detector proposes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["corners", "suppress"]

_EPSILON = 1e-7


def corners(rotated: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rotated boxes (K, 5) as center x and y, width, height, angle in radians: their corners (K, 4, 2), in order."""
    centers, halves, angles = rotated[:, :2], rotated[:, 2:4] / 2, rotated[:, 4]
    cosines, sines = np.cos(angles), np.sin(angles)
    along = np.stack([halves[:, 0] * cosines, halves[:, 0] * sines], axis=1)
    across = np.stack([-halves[:, 1] * sines, halves[:, 1] * cosines], axis=1)
    return np.stack([centers + x * along + y * across for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))], axis=1)


def suppress(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int64],
    iou: float,
    limit: int,
) -> npt.NDArray[np.int64]:
    """Non-maximum suppression in each class.

    Args:
        boxes: (K, 4) as x1, y1, x2, y2; or (K, 5), rotated, as in :func:`corners`.
        scores: (K,).
        class_ids: (K,).
        iou: a box goes if it overlaps a better one of its class by more than this, 0..1.
        limit: how many boxes are kept at most.

    Returns:
        Indices of the boxes that stay, best first; of equal ones the earlier first.
    """
    order = np.argsort(-scores, kind="stable")
    overlap = _rotated_overlap if boxes.shape[1] == 5 else _upright_overlap
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        overlaps = overlap(boxes[best], boxes[rest], iou)
        order = rest[~(overlaps & (class_ids[rest] == class_ids[best]))]
    return np.array(kept, np.int64)


def _upright_overlap(best: npt.NDArray[np.float32], rest: npt.NDArray[np.float32], iou: float) -> npt.NDArray[np.bool_]:
    """Whether boxes (K, 4) overlap one (4,) by more than ``iou``."""
    sides = np.minimum(best[2:], rest[:, 2:]) - np.maximum(best[:2], rest[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (rest[:, 2:] - rest[:, :2]).prod(axis=1) + (best[2:] - best[:2]).prod()
    # not a division: boxes without an area have no overlap to divide
    exceeds: npt.NDArray[np.bool_] = shared > iou * (areas - shared)
    return exceeds


def _rotated_overlap(best: npt.NDArray[np.float32], rest: npt.NDArray[np.float32], iou: float) -> npt.NDArray[np.bool_]:
    """Whether rotated boxes (K, 5) overlap one (5,) by more than ``iou``: of them as Gaussian distributions, as
    ultralytics trains such models (https://arxiv.org/abs/2106.06072)."""
    (a1, b1, c1), (a2, b2, c2) = _covariances(best[None]), _covariances(rest)
    a, b, c = a1 + a2, b1 + b2, c1 + c2
    x, y = (best[:2] - rest[:, :2]).astype(np.float64).T
    determinant = a * b - c**2
    areas = np.sqrt((a1 * b1 - c1**2).clip(0) * (a2 * b2 - c2**2).clip(0))
    distance = (
        (a * y**2 + b * x**2) / (determinant + _EPSILON) / 4
        - c * x * y / (determinant + _EPSILON) / 2
        + np.log(determinant / (4 * areas + _EPSILON) + _EPSILON) / 2
    )
    exceeds: npt.NDArray[np.bool_] = 1 - np.sqrt(1 - np.exp(-distance.clip(_EPSILON, 100)) + _EPSILON) > iou
    return exceeds


def _covariances(rotated: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(3, K): variance along x and along y, and covariance, of boxes (K, 5)."""
    along, across = (rotated[:, 2:4].astype(np.float64) ** 2 / 12).T
    cosines, sines = np.cos(rotated[:, 4]), np.sin(rotated[:, 4])
    return np.stack(
        [
            along * cosines**2 + across * sines**2,
            along * sines**2 + across * cosines**2,
            (along - across) * cosines * sines,
        ]
    )
