"""A detector whose network runs, and whose findings are given: random weights would find nothing, or noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from classifiers import Image
from classifiers.objects import ObjectClassifier

__all__ = ["PlantedDetector"]


class PlantedDetector(ObjectClassifier):
    """Runs its network on every image, and answers that it has so many cars.

    Args:
        cars: in every image, of a fifth of its width and height.
        every: only one image in so many has them, by its brightness, so that it does not depend on the order.
    """

    def __init__(self, cars: int = 2, every: int = 1, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._cars = cars
        self._every = every

    def process_batch(self, images: Sequence[Image], contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        super().process_batch(images, contexts)
        return [self._planted(image) for image in images]

    def _planted(self, image: Image) -> dict[str, Any]:
        height, width = image.shape[:2]
        count = self._cars if int(image[::32, ::32].sum()) % self._every == 0 else 0
        detections = [
            {
                "bbox": [
                    width * (n % 4) / 5,
                    height * (n // 4 % 4) / 5,
                    width * (n % 4 + 1) / 5,
                    height * (n // 4 % 4 + 1) / 5,
                ],
                "confidence": 0.9,
                "class_id": 2,
                "class_name": "car",
            }
            for n in range(count)
        ]
        return {"detections": detections, "detected_classes": ["car"] if detections else []}
