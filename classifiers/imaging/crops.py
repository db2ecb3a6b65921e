"""Cutting the objects that a detector found out of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from classifiers.base import Image, ResizeMode

__all__ = ["LETTERBOX_GREY", "crop"]

LETTERBOX_GREY = 114
"""Value of the padding of ``letterbox``, as the YOLO models were trained with."""

# Boxes are rounded to 2 places; anything finer is noise of floating point and must not cost a row of pixels.
_DECIMALS = 6


def crop(
    image: Image,
    bbox: Sequence[float],
    size: tuple[int, int] | None = None,
    resize: ResizeMode = "stretch",
    padding: float = 0.0,
) -> Image:
    """Cut a box out of an image, and bring it to one size where that is asked for.

    Args:
        image: (H, W, 3) RGB uint8.
        bbox: (x1, y1, x2, y2) in pixels of the image, x to the right, y down. It is rounded outward and clipped to the
            image. The corners of an inverted box are swapped; an empty box, or one outside, gives the nearest pixel.
        size: (H, W) of the result in pixels; ``None``: the box's own size.
        resize: how the cut box gets to ``size``. ``stretch``: regardless of its aspect ratio. ``letterbox``: its aspect
            ratio is kept and the rest filled with grey. ``center_crop``: its aspect ratio is kept and the longer side
            is cut off equally at both ends. Shrinking averages over areas, enlarging interpolates linearly.
        padding: share of the box's width and height that is added on each side before clipping, 0 or more.

    Returns:
        (H, W, 3) RGB uint8, C-contiguous, read-only, at least 1 x 1; a copy, so that it does not keep the image alive.

    Raises:
        ValueError: an argument is not of the shape or range above; the message shows it.
    """
    _check(image, bbox, size, padding)
    left, top, right, bottom = _window(bbox, padding, image.shape[1], image.shape[0])
    cut = image[top:bottom, left:right]
    if size is None:
        result = cut.copy()
    elif resize == "stretch":
        result = _scaled(cut, *size)
    elif resize == "letterbox":
        result = _letterboxed(cut, *size)
    elif resize == "center_crop":
        result = _scaled(_centre(cut, *size), *size)
    else:
        raise ValueError(f"resize must be 'stretch', 'letterbox' or 'center_crop', got {resize!r}")
    result.setflags(write=False)
    return result


def _check(image: Image, bbox: Sequence[float], size: tuple[int, int] | None, padding: float) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"image must be (H, W, 3) uint8 and not empty, got {image.shape} {image.dtype}")
    if len(bbox) != 4 or not all(math.isfinite(edge) for edge in bbox):
        raise ValueError(f"bbox must be 4 finite numbers (x1, y1, x2, y2), got {bbox!r}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size must be (H, W), both 1 or more, got {size!r}")
    if not (math.isfinite(padding) and padding >= 0):
        raise ValueError(f"padding must be a share of the box, 0 or more, got {padding!r}")


def _window(bbox: Sequence[float], padding: float, width: int, height: int) -> tuple[int, int, int, int]:
    left, right = _span(bbox[0], bbox[2], padding, width)
    top, bottom = _span(bbox[1], bbox[3], padding, height)
    return left, top, right, bottom


def _span(start: float, end: float, padding: float, length: int) -> tuple[int, int]:
    """First pixel and the one after the last, of one axis that is ``length`` pixels long."""
    low, high = min(start, end), max(start, end)
    margin = (high - low) * padding
    first = min(max(math.floor(round(low - margin, _DECIMALS)), 0), length - 1)
    after = min(max(math.ceil(round(high + margin, _DECIMALS)), first + 1), length)
    return first, after


def _scaled(image: Image, height: int, width: int) -> Image:
    # Each axis with what suits it: the area interpolation of OpenCV is defined for shrinking both.
    smaller = min(width, image.shape[1]), min(height, image.shape[0])
    shrunk = cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _letterboxed(image: Image, height: int, width: int) -> Image:
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height, inner_width = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    result = np.full((height, width, 3), LETTERBOX_GREY, np.uint8)
    result[top : top + inner_height, left : left + inner_width] = _scaled(image, inner_height, inner_width)
    return result


def _centre(image: Image, height: int, width: int) -> Image:
    """The largest window in the middle that has the shape of (height, width)."""
    # Cut before scaling: a sliver would grow to billions of pixels the other way round.
    scale = min(image.shape[0] / height, image.shape[1] / width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (image.shape[0] - inner_height) // 2, (image.shape[1] - inner_width) // 2
    return image[top : top + inner_height, left : left + inner_width]
