"""A detector whose network runs, and whose findings are given: random weights would find nothing, or noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from classifiers import Image
from classifiers.backends.yolo import Candidates, Detector
from classifiers.objects import ObjectClassifier

__all__ = ["PlantedDetector"]

_CAR = 2
_PROPOSALS = 8  # of one object, which is what is left of a trained head's at a confidence of 0.25


class PlantedDetector(ObjectClassifier):
    """Runs its network on every image, and then reads from it that there are so many cars.

    Args:
        cars: in every image, of a fifth of its width and height.
        every: only one image in so many has them, by its brightness, so that it does not depend on the order.
    """

    def __init__(self, cars: int = 2, every: int = 1, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._detector: Any = _Planted(self._detector, cars)
        self._every = every

    def process_batch(self, images: Sequence[Image], contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        results = super().process_batch(images, contexts)
        nothing: dict[str, Any] = {"detections": [], "detected_classes": []}
        return [
            result if int(image[::32, ::32].sum()) % self._every == 0 else nothing
            for image, result in zip(images, results, strict=True)
        ]


class _Planted:
    """A detector that answers something else than what it found."""

    def __init__(self, detector: Detector, cars: int) -> None:
        self._detector = detector
        self.names = {**detector.names, _CAR: "car"}  # an untrained one only has numbers
        size = np.array(detector.size[::-1], np.float32) / 5
        corners = np.array([[n % 4, n // 4 % 4] for n in range(cars)], np.float32).reshape(-1, 2) * size
        boxes = np.hstack([corners, corners + size]).repeat(_PROPOSALS, axis=0)
        scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
        self._answer = Candidates(boxes, scores, np.full(len(boxes), _CAR))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._detector, name)

    def __call__(self, canvases: Any, confidence: float) -> list[Candidates]:
        return [self._answer for _ in self._detector(canvases, confidence)]
