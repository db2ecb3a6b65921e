"""The color of a person's T-shirt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from classifiers.attributes.colour_names import COLOUR_NAMES, name_memberships, skin_likeness
from classifiers.attributes.garment import SIZE, balanced, breast_weights, show_a_face, unlike_background
from classifiers.base import BaseClassifier, Image
from classifiers.imaging import crop
from classifiers.tunables import Tunables, check

__all__ = ["TShirtColorClassifier"]

TopK = Annotated[int, Field(ge=1, le=len(COLOUR_NAMES))]
SkinSuppression = Annotated[float, Field(ge=0, le=1)]
BackgroundSuppression = Annotated[float, Field(ge=0, le=100)]

# Bits per channel for naming a colour, and for comparing it with the background.
_FINE_BITS, _COARSE_BITS = 5, 4

_LEAST_HEIGHT, _LEAST_WIDTH = 32, 12
"""Pixels of a person in the photo."""
_GREATEST_ASPECT = 5.0
"""Height by width: what is narrower is the edge of a person, behind something or at the border of the photo."""

# Sharpens shares of the vote to confidences: of the answers given with 0.8, a little more than 8 in 10 are right.
_SHARPNESS = 2


class _Tunables(Tunables):
    top_k: TopK
    skin_suppression: SkinSuppression
    background_suppression: BackgroundSuppression


class TShirtColorClassifier(BaseClassifier):
    """The colour of what a person wears above the waist, as one of the eleven basic colour terms.

    Takes the crop of a person with the head at the top, from head to foot or only the upper part. Every pixel votes for
    the names that its colour has. Votes have the highest weight on the breast, and little for colours of skin and
    of the background. There are no weights to load; a crop takes a fraction of a millisecond.

    The result of a crop is ``{"label": "black", "confidence": 0.8, "labels": [{"label": "black", "confidence": 0.8},
    {"label": "grey", "confidence": 0.1}, ...]}``: the most confident first, the confidences of all eleven sum to 1.
    It is ``{"label": "unknown", "confidence": 0.0, "labels": [], "reason": ...}`` if too little of the person is
    visible, or a face fills the crop.

    Args:
        top_k: how many names ``labels`` has, 1..11.
        skin_suppression: share of its vote that a skin-coloured pixel loses, 0..1. Lower is better for beige garments.
        background_suppression: how strongly colours of the background lose votes, 0..100; 0: not at all.

    Raises:
        SetupError: an argument is out of its range.
    """

    default_crops: ClassVar[str | None] = "detection['class_name'] == 'person'"
    tunables: ClassVar[frozenset[str]] = frozenset(_Tunables.model_fields)
    input_size: tuple[int, int] | None = SIZE

    def __init__(
        self,
        top_k: TopK = 3,
        skin_suppression: SkinSuppression = 0.9,
        background_suppression: BackgroundSuppression = 2.0,
    ) -> None:
        tunables = {
            "top_k": top_k,
            "skin_suppression": skin_suppression,
            "background_suppression": background_suppression,
        }
        self._tunables = check(_Tunables, "TShirtColorClassifier", tunables)
        palette = _palette(_FINE_BITS)
        self._names = name_memberships(palette).astype(np.float32)
        self._skin = skin_likeness(palette).astype(np.float32)
        self._coarse = _numbers(palette, _COARSE_BITS)

    @property
    def name(self) -> str:
        return "tshirt_color"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(
        self,
        images: Sequence[Image],
        contexts: Sequence[Mapping[str, Any]],
    ) -> list[dict[str, Any]]:
        if not images:
            return []
        pixels = np.stack([_sized(image) for image in images])
        colours = _numbers(balanced(pixels), _FINE_BITS)
        # In either light: balancing takes the colour of a face for the lamp's where the face is the brightest part.
        skin = np.maximum(self._skin[colours], self._skin[_numbers(pixels, _FINE_BITS)])
        weights = breast_weights(skin)
        # Where most of the breast looks like skin, it is a garment that does.
        bare = (weights * skin).sum(axis=(1, 2), keepdims=True)
        weights *= unlike_background(self._coarse[colours], weights, self._tunables.background_suppression)
        weights *= 1 - self._tunables.skin_suppression * skin * (1 - bare)
        reasons = [
            _too_little(context) or ("a face fills the crop" if face else None)
            for context, face in zip(contexts, show_a_face(skin), strict=True)
        ]
        # Crop by crop, because the memberships of a whole batch leave the processor's cache.
        return [
            self._result(where.ravel() @ self._names[colour.ravel()]) if reason is None else _unknown(reason)
            for where, colour, reason in zip(weights, colours, reasons, strict=True)
        ]

    def reconfigure(self, **tunables: Any) -> None:
        self._tunables = check(_Tunables, "TShirtColorClassifier", self._tunables.model_dump() | tunables)

    def _result(self, votes: npt.NDArray[np.float32]) -> dict[str, Any]:
        sharpened = (votes / votes.sum()).astype(np.float64) ** _SHARPNESS
        confidences = sharpened / sharpened.sum()
        best = np.argsort(-confidences, kind="stable")[: self._tunables.top_k]
        labels = [{"label": COLOUR_NAMES[i], "confidence": round(float(confidences[i]), 4)} for i in best]
        return {**labels[0], "labels": labels}


def _too_little(context: Mapping[str, Any]) -> str | None:
    """Why the detection shows too little of a person, in its own pixels: the crop may have been resized."""
    if "detection" not in context:
        return None
    left, top, right, bottom = context["detection"]["bbox"]
    width, height = right - left, bottom - top
    if height < _LEAST_HEIGHT or width < _LEAST_WIDTH:
        return f"the person is too small: {width:.0f}x{height:.0f} pixels"
    if height > _GREATEST_ASPECT * width:
        return f"only an edge of the person is visible: {width:.0f}x{height:.0f} pixels"
    return None


def _unknown(reason: str) -> dict[str, Any]:
    return {"label": "unknown", "confidence": 0.0, "labels": [], "reason": reason}


def _sized(image: Image) -> Image:
    """The image in ``SIZE``; it has another one where the step has no crop rule."""
    height, width = image.shape[:2]
    return image if (height, width) == SIZE else crop(image, (0, 0, width, height), SIZE)


def _numbers(pixels: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """The place of each pixel's colour in ``_palette(bits)``: (..., 3) -> (...)."""
    red, green, blue = np.moveaxis(pixels.astype(np.int32) >> (8 - bits), -1, 0)
    return np.asarray((red << (2 * bits)) | (green << bits) | blue, dtype=np.int32)


def _palette(bits: int) -> npt.NDArray[np.uint8]:
    """(8**bits, 3): the middle of each colour that this number of bits per channel can represent."""
    steps = (np.arange(2**bits) * 2 ** (8 - bits) + 2 ** (7 - bits)).astype(np.uint8)
    return np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
