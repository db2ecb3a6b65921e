"""The make of a car."""

from __future__ import annotations

from typing import ClassVar

from classifiers.backends import Half
from classifiers.images import ImageClassifier
from classifiers.labels import Threshold, TopK
from classifiers.weights import ModelRef, Runtime

__all__ = ["StanfordViT"]


class StanfordViT(ImageClassifier):
    """Names the make of a car: an :class:`.images.ImageClassifier` for cars and trucks, with its own default model.

    The result is ``{"label": "Audi", "confidence": 0.81, "labels": [{"label": "Audi", "confidence": 0.81}, ...]}``.
    Arguments and errors are those of ``ImageClassifier``.
    """

    default_crops: ClassVar[str | None] = "detection['class_name'] in ('car', 'truck')"

    def __init__(
        self,
        model: ModelRef = "therealcyberlord/stanford-car-vit-patch16",
        revision: str | None = None,
        top_k: TopK = 5,
        threshold: Threshold = 0.0,
        device: str = "auto",
        half: Half = "auto",
        runtime: Runtime = "auto",
        torch_compile: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(model, revision, top_k, threshold, device, half, runtime, torch_compile, trust_remote_code)

    @property
    def name(self) -> str:
        return "make"
