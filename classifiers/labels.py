"""Choosing among labels: the base class, and the result."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from classifiers.backends import BatchModel, Preprocessing
from classifiers.base import BaseClassifier, Image
from classifiers.tunables import Tunables, check
from classifiers.weights import Checkpoint

__all__ = ["UNKNOWN", "Floats", "LabelClassifier", "LabelTunables", "Threshold", "TopK", "ranked", "softmax"]

UNKNOWN = "unknown"

TopK = Annotated[int, Field(ge=1, le=1000)]
Threshold = Annotated[float, Field(ge=0, le=1)]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]


class LabelTunables(Tunables):
    top_k: TopK
    threshold: Threshold


class LabelClassifier(BaseClassifier):
    """The base of classes that choose among labels by the output of a checkpoint's image network."""

    _tunables: Any  # LabelTunables, with further fields

    def _use(self, checkpoint: Checkpoint, seen: Preprocessing, network: BatchModel) -> None:
        """Set the loaded network, and the size and normalization of its images."""
        self._preprocessing, self._network = seen, network
        self.input_size, self.resize, self.frame_size = seen.input_size, seen.resize, seen.input_size
        self.weights_digest = checkpoint.digest

    @abstractmethod
    def _confidences(self, outputs: npt.NDArray[np.float32]) -> tuple[Sequence[str], Floats]:
        """The labels, and their confidences (N, labels), from the network's output (N, ...)."""

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(
        self,
        images: Sequence[Image],
        contexts: Sequence[Mapping[str, Any]],  # noqa: ARG002 - part of the interface
    ) -> list[dict[str, Any]]:
        if not images:
            return []
        labels, confidences = self._confidences(self._outputs(images))
        return [ranked(labels, row, self._tunables.top_k, self._tunables.threshold) for row in confidences]

    def reconfigure(self, **tunables: Any) -> None:
        self._tunables = check(type(self._tunables), type(self).__name__, self._tunables.model_dump() | tunables)

    def warm_up(self, batch_size: int) -> None:
        grey = np.full((*self._preprocessing.input_size, 3), 128, np.uint8)
        for size in self._network.sizes_to_warm_up(batch_size):
            self._outputs([grey] * size)

    def _outputs(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        batch = self._preprocessing.batch(images, self._network.buffer(len(images)))
        return self._network.to_numpy(self._network(batch))

    def _output_shape(self) -> tuple[int, ...]:
        """Of one image."""
        return self._outputs([np.zeros((*self._preprocessing.input_size, 3), np.uint8)]).shape


def ranked(names: Sequence[str], confidences: Floats, top_k: int, threshold: float) -> dict[str, Any]:
    """``label``, ``confidence`` and ``labels``, the most confident first.

    Args:
        names: the labels.
        confidences: of each of them, 0..1.
        top_k: maximum length of ``labels``.
        threshold: below this confidence of the best label, ``label`` is ``unknown`` with a confidence of 0, and
            ``reason`` says why.
    """
    best = np.argsort(-confidences, kind="stable")[:top_k].tolist()
    labels = [{"label": names[index], "confidence": round(float(confidences[index]), 4)} for index in best]
    if labels[0]["confidence"] >= threshold:
        return {**labels[0], "labels": labels}
    reason = f"the best label, {labels[0]['label']!r}, has a confidence of {labels[0]['confidence']}, below {threshold}"
    return {"label": UNKNOWN, "confidence": 0.0, "reason": reason, "labels": labels}


def softmax(logits: Floats) -> npt.NDArray[np.float64]:
    """Shares that sum to 1 in each row."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
