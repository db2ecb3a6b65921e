"""Masks of segmentation models, as polygons."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["polygons"]

_Floats = npt.NDArray[np.float32]

_TOLERANCE = 1.0
"""How far a polygon may be from the outline of its mask, in pixels of the canvas."""


def polygons(coefficients: _Floats, prototypes: _Floats, box: _Floats, canvas: tuple[int, int]) -> list[_Floats]:
    """The outlines of one object's mask, the largest first.

    Args:
        coefficients: (C,), of each prototype.
        prototypes: (C, h, w): the mask is where their weighted sum is above 0, a grid over the canvas.
        box: x1, y1, x2, y2 in pixels of the canvas; nothing of the mask is outside of it.
        canvas: (H, W) in pixels.

    Returns:
        Polygons (N, 2) of x and y in pixels of the canvas, without holes. None where the mask is empty.
    """
    rows, columns = prototypes.shape[1:]
    step_y, step_x = canvas[0] / rows, canvas[1] / columns
    # One more on each side, because pixels between two values get a mean of both.
    left, right = _span(box[0] / step_x, box[2] / step_x, columns)
    top, bottom = _span(box[1] / step_y, box[3] / step_y, rows)
    values = np.tensordot(coefficients, prototypes[:, top:bottom, left:right], 1)
    size = round((right - left) * step_x), round((bottom - top) * step_y)
    inside = (cv2.resize(values, size, interpolation=cv2.INTER_LINEAR) > 0).astype(np.uint8)
    offset = np.array([left * step_x, top * step_y], np.float32)
    x1, y1 = np.clip(np.ceil(box[:2] - offset), 0, size).astype(int)
    x2, y2 = np.clip(np.ceil(box[2:] - offset), 0, size).astype(int)
    inside[:y1] = inside[y2:] = inside[:, :x1] = inside[:, x2:] = 0
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = sorted(outlines, key=cv2.contourArea, reverse=True)
    simple = [cv2.approxPolyDP(outline, _TOLERANCE, True)[:, 0] for outline in outlines]
    return [np.asarray(points + (offset + 0.5), np.float32) for points in simple if len(points) >= 3]


def _span(start: float, end: float, length: int) -> tuple[int, int]:
    first = min(max(int(start) - 1, 0), length - 1)
    return first, min(max(int(end) + 2, first + 1), length)
