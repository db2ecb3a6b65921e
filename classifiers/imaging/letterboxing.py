"""Images of any shape on canvases of one size, and boxes back from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from classifiers.base import Image

__all__ = ["Fit", "letterbox"]

_GREY = 114  # what YOLO was trained with


@dataclass(frozen=True)
class Fit:
    """The place of an image on its canvas."""

    width: int
    height: int
    left: int
    top: int
    scale_x: float
    scale_y: float

    def to_image(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Boxes (K, 4) as x1, y1, x2, y2: from pixels of the canvas to pixels of the image, clipped to it."""
        points = self.points_to_image(boxes.reshape(-1, 2, 2))
        limit = np.array([self.width, self.height], np.float32)
        return np.clip(points, 0, limit).reshape(-1, 4)

    def points_to_image(self, points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Points (..., 2) of x and y, also outside the image: from pixels of the canvas to pixels of the image."""
        offset = np.array([self.left, self.top], np.float32)
        return np.asarray((points - offset) / np.array([self.scale_x, self.scale_y], np.float32), np.float32)


def letterbox(
    images: Sequence[Image], canvases: npt.NDArray[np.uint8], stretch: float = 0.0, antialias: bool = False
) -> list[Fit]:
    """Scale images to fit a canvas and centre them on grey, as ultralytics does.

    Args:
        images: N arrays (H, W, 3) RGB uint8.
        canvases: (N, H, W, 3) RGB uint8 to overwrite.
        stretch: 0 keeps the aspect ratio of the image, 1 fills the canvas, and values between change the ratio in part.
        antialias: average over areas where an image shrinks.

    Returns:
        The place of each image on its canvas.
    """
    return [_place(image, canvas, stretch, antialias) for image, canvas in zip(images, canvases, strict=True)]


def _place(image: Image, canvas: npt.NDArray[np.uint8], stretch: float, antialias: bool) -> Fit:
    (height, width), (canvas_height, canvas_width) = image.shape[:2], canvas.shape[:2]
    ratio = min(canvas_height / height, canvas_width / width)
    new_width, new_height = (
        max(round(side * ratio * (canvas_side / (side * ratio)) ** stretch), 1)
        for side, canvas_side in ((width, canvas_width), (height, canvas_height))
    )
    # the odd pixel goes to the right and the bottom
    left, top = (canvas_width - new_width) // 2, (canvas_height - new_height) // 2
    canvas[:top] = canvas[top + new_height :] = _GREY
    canvas[:, :left] = canvas[:, left + new_width :] = _GREY
    target = canvas[top : top + new_height, left : left + new_width]
    if (new_height, new_width) == (height, width):
        target[:] = image
    else:
        shrinks = new_height < height and new_width < width
        interpolation = cv2.INTER_AREA if antialias and shrinks else cv2.INTER_LINEAR
        cv2.resize(image, (new_width, new_height), dst=target, interpolation=interpolation)
    return Fit(width, height, left, top, new_width / width, new_height / height)
