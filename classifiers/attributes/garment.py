"""Which pixels of a person's crop show the garment above the waist: the weight that each pixel's colour has."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["SIZE", "balanced", "breast_weights", "show_a_face", "unlike_background"]

Floats = npt.NDArray[np.float32]

SIZE = (64, 32)
"""(H, W) that crops are looked at in. 128 x 64 is no more accurate."""

# Each channel is moved a third of the way to where the brightest parts of a photograph should be. That corrects a part
# of the light's colour and of a wrong exposure, and keeps a red garment red. The norm of degree 6 is "Shades of Gray"
# (Finlayson and Trezzi, Color Imaging Conference 2004).
_NORM_DEGREE = 6
_NORM_TARGET = 0.7
_CORRECTION = 0.37
_GREATEST_GAIN = 1.7
_POWERS = ((np.arange(256) / 255) ** _NORM_DEGREE).astype(np.float32)

# Rows and columns are shares of the crop, 0..1 from its top left.
_ROWS = ((np.arange(SIZE[0]) + 0.5) / SIZE[0]).astype(np.float32)
_COLUMNS = ((np.arange(SIZE[1]) + 0.5) / SIZE[1]).astype(np.float32)

# A bell around the middle of the breast. It is lower if the crop ends at the waist, which a large face shows.
_BREAST_ROW, _LOWEST_BREAST_ROW, _BREAST_COLUMN = 0.31, 0.49, 0.5
_BREAST_ROW_PER_SKIN = 0.45
_ROW_SPREAD, _COLUMN_SPREAD = 0.14, 0.27
_FACE_ROWS = (_ROWS > 0.15) & (_ROWS < 0.4)
_MIDDLE_COLUMNS = (_COLUMNS > 0.25) & (_COLUMNS < 0.75)

# A crop shows a face and no garment where the middle of its lower part has skin. Where that is full of it, it is a
# garment that looks like skin.
_FACE_SKIN, _LEAST_LOWER_SKIN, _MOST_LOWER_SKIN = 0.4, 0.33, 0.8
_LOWER_ROWS = _ROWS > 0.6

# Beside the head and shoulders, and above the head.
_BACKGROUND = (np.abs(_COLUMNS - 0.5) > 0.4)[np.newaxis, :] & (_ROWS < 0.35)[:, np.newaxis] | (_ROWS < 0.06)[
    :, np.newaxis
]


def balanced(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(N, H, W, 3) RGB with exposure and colour of the light evened out in part."""
    norms = _POWERS[pixels].mean(axis=(1, 2), keepdims=True) ** (1 / _NORM_DEGREE)
    gains = (_NORM_TARGET / np.maximum(norms, 1 / 255)) ** _CORRECTION
    gains = np.clip(gains, 1 / _GREATEST_GAIN, _GREATEST_GAIN)
    return np.asarray(np.minimum(pixels * gains, 255), dtype=np.uint8)


def breast_weights(skin: Floats) -> Floats:
    """(N, H, W) weights of where a garment is to be expected, from (N, H, W) likeness to skin; each crop's sum to 1."""
    face = _middle_skin(skin, _FACE_ROWS)
    middle = np.minimum(_BREAST_ROW + _BREAST_ROW_PER_SKIN * face[:, np.newaxis], _LOWEST_BREAST_ROW)
    down = np.exp(-(((_ROWS - middle) / _ROW_SPREAD) ** 2) / 2)
    across = np.exp(-(((_COLUMNS - _BREAST_COLUMN) / _COLUMN_SPREAD) ** 2) / 2)
    weights = down[:, :, np.newaxis] * across
    return np.asarray(weights / weights.sum(axis=(1, 2), keepdims=True), dtype=np.float32)


def show_a_face(skin: Floats) -> npt.NDArray[np.bool_]:
    """(N,) whether a face fills the crop, from (N, H, W) likeness to skin."""
    face, lower = _middle_skin(skin, _FACE_ROWS), _middle_skin(skin, _LOWER_ROWS)
    return np.asarray((face > _FACE_SKIN) & (lower > _LEAST_LOWER_SKIN) & (lower < _MOST_LOWER_SKIN))


def unlike_background(colours: npt.NDArray[np.int32], weights: Floats, suppression: float) -> Floats:
    """How much more frequent each pixel's colour is where the garment is expected than in the background.

    Args:
        colours: (N, H, W) numbers of coarse colours, 0 or more.
        weights: (N, H, W) as from :func:`breast_weights`.
        suppression: 0: nothing is background.

    Returns:
        (N, H, W), 0..1: 1 for colours that the background does not have.
    """
    kinds = int(colours.max()) + 1
    crops = len(colours)
    places = colours + kinds * np.arange(crops, dtype=np.int64)[:, np.newaxis, np.newaxis]
    on_breast = np.bincount(places.ravel(), weights.ravel(), crops * kinds)
    behind = np.bincount(places[:, _BACKGROUND].ravel(), minlength=crops * kinds) / _BACKGROUND.sum()
    shares = on_breast[places] / (on_breast[places] + suppression * behind[places])
    return np.asarray(shares**2, dtype=np.float32)


def _middle_skin(skin: Floats, rows: npt.NDArray[np.bool_]) -> Floats:
    """(N,) likeness to skin in the middle of those rows."""
    return np.asarray(skin[:, rows][:, :, _MIDDLE_COLUMNS].mean(axis=(1, 2)))
