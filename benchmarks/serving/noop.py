"""A detector that finds nothing, at once: what is left is the cost of serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from classifiers import BaseClassifier, Image

__all__ = ["NoOpDetector"]


class NoOpDetector(BaseClassifier):
    """Looks at nothing."""

    @property
    def name(self) -> str:
        return "no_op"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        return {"detections": [], "detected_classes": []}
