"""Colours of what persons wear."""

from classifiers.clothing.colour_names import COLOUR_NAMES, name_memberships, skin_likeness
from classifiers.clothing.garment import SIZE, balanced, breast_weights, show_a_face, unlike_background

__all__ = [
    "COLOUR_NAMES",
    "SIZE",
    "balanced",
    "breast_weights",
    "name_memberships",
    "show_a_face",
    "skin_likeness",
    "unlike_background",
]
