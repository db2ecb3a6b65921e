"""Models and pixels: decoding, cropping, and one class a model. Knows nothing of graphs, Ray or HTTP."""

from classifiers.base import BaseClassifier, Image, ResizeMode
from classifiers.errors import (
    BadImage,
    InputError,
    ModelNotFound,
    SetupError,
    TooManyBytes,
    TooManyPixels,
    UnsupportedImage,
    VisionError,
)

__all__ = [
    "BadImage",
    "BaseClassifier",
    "Image",
    "InputError",
    "ModelNotFound",
    "ResizeMode",
    "SetupError",
    "TooManyBytes",
    "TooManyPixels",
    "UnsupportedImage",
    "VisionError",
]
