"""The result of a class that chooses among labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

__all__ = ["UNKNOWN", "Threshold", "TopK", "ranked", "softmax"]

UNKNOWN = "unknown"

TopK = Annotated[int, Field(ge=1, le=1000)]
Threshold = Annotated[float, Field(ge=0, le=1)]


def ranked(
    names: Sequence[str], confidences: npt.NDArray[np.floating[Any]], top_k: int, threshold: float
) -> dict[str, Any]:
    """``label``, ``confidence`` and ``labels``, the most confident first.

    Args:
        names: the labels.
        confidences: of each of them, 0..1.
        top_k: how many ``labels`` has at most.
        threshold: below this confidence of the best label, ``label`` is ``unknown`` with a confidence of 0, and
            ``reason`` says why.
    """
    best = np.argsort(-confidences, kind="stable")[:top_k].tolist()
    labels = [{"label": names[index], "confidence": round(float(confidences[index]), 4)} for index in best]
    if labels[0]["confidence"] >= threshold:
        return {**labels[0], "labels": labels}
    reason = f"the best label, {labels[0]['label']!r}, has a confidence of {labels[0]['confidence']}, below {threshold}"
    return {"label": UNKNOWN, "confidence": 0.0, "reason": reason, "labels": labels}


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Shares that sum to 1 in each row."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
