"""Attributes of detected objects: the color of a T-shirt."""

from classifiers.attributes.tshirt_color import TShirtColorClassifier

__all__ = ["TShirtColorClassifier"]
