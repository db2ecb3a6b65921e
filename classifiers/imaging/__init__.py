"""Pixels: decoding, cropping, resizing."""

from classifiers.imaging.boxes import corners, suppress
from classifiers.imaging.crops import crop
from classifiers.imaging.decoding import (
    DEFAULT_LIMITS,
    ImageHeader,
    ImageLimits,
    OpenedImage,
    decode,
    from_pillow,
    probe,
)
from classifiers.imaging.letterboxing import Fit, letterbox
from classifiers.imaging.masks import polygons
from classifiers.imaging.signatures import served_format

__all__ = [
    "DEFAULT_LIMITS",
    "Fit",
    "ImageHeader",
    "ImageLimits",
    "OpenedImage",
    "corners",
    "crop",
    "decode",
    "from_pillow",
    "letterbox",
    "polygons",
    "probe",
    "served_format",
    "suppress",
]
