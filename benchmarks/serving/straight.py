"""The pipeline written by hand: decode, detect, crop, classify, and nothing else.

The limit is this in bare processes, and what the other servers serve is this too, so that all run the same code on the
same pixels and only the serving differs.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving.settings import DETECTOR, RULES, Settings
from classifiers import BaseClassifier, Image
from classifiers.imaging.crops import crop
from classifiers.imaging.decoding import decode

__all__ = ["Classifier", "Detector", "Found", "Straight", "load"]


@dataclass
class Found:
    """One image: its results so far by step, and by step the crops that wait, each with its detection's index."""

    context: dict[str, Any]
    crops: dict[str, list[tuple[int, Image]]] = field(default_factory=dict)


def load(settings: Settings, name: str) -> BaseClassifier:
    """Load one step's model."""
    module, _, cls = settings.steps[name]["class"].rpartition(".")
    model: BaseClassifier = getattr(importlib.import_module(module), cls)(**settings.steps[name]["params"])
    model.warm_up(1)
    return model


class Detector:
    """Encoded images to detections and crops."""

    def __init__(self, settings: Settings) -> None:
        self._model = load(settings, DETECTOR)
        self._crops = settings.crops

    def __call__(self, encoded: Sequence[bytes]) -> list[Found]:
        images = [decode(data) for data in encoded]
        results = self._model.process_batch(images, [{}] * len(images))
        return [
            Found({DETECTOR: result}, {name: self._cut(name, image, result) for name in self._crops})
            for image, result in zip(images, results, strict=True)
        ]

    def _cut(self, name: str, image: Image, result: dict[str, Any]) -> list[tuple[int, Image]]:
        shown, looked_at = RULES[name]
        if shown not in result["detected_classes"]:
            return []
        wanted = self._crops[name]
        return [
            (index, crop(image, detection["bbox"], wanted["size"], wanted["resize"], wanted["padding"]))
            for index, detection in enumerate(result["detections"])
            if detection["class_name"] in looked_at
        ]


class Classifier:
    """A step that looks at crops; those of all images that come together share its batches."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._model = load(settings, name)
        self._name = name

    def __call__(self, images: Sequence[Found]) -> None:
        crops = [image for found in images for _, image in found.crops[self._name]]
        answers = iter(self._model.process_batch(crops, [{}] * len(crops)) if crops else [])
        for found in images:
            if waiting := found.crops.pop(self._name):
                found.context[self._name] = {"objects": [{**next(answers), "detection": i} for i, _ in waiting]}


class Straight:
    """The whole pipeline in one process."""

    def __init__(self, settings: Settings) -> None:
        self._detector = Detector(settings)
        self._classifiers = [Classifier(settings, name) for name in settings.crops]

    def __call__(self, encoded: Sequence[bytes]) -> list[dict[str, Any]]:
        """The results by step of each image."""
        images = self._detector(encoded)
        for classifier in self._classifiers:
            classifier(images)
        return [found.context for found in images]
