"""Classifiers that say what they are, and that some images are bad for."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from toys import encoded

from classifiers import BaseClassifier, Image

__all__ = ["BAD", "Broken", "One", "Other", "picture"]

_WORK_S = 0.005
BAD = {"exits": 201, "segmentation fault": 202, "hangs": 203, "holds the interpreter": 204}
"""The first pixel of images that are bad for the classifiers."""


def picture(number: int, bad: str | None = None) -> bytes:
    """A small image, another one for each number."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[1, :4, 0] = list(number.to_bytes(4))
    pixels[0, 0] = BAD.get(bad or "", 0)
    return encoded(pixels)


class One(BaseClassifier):
    """Says what it is, and its threshold."""

    tunables: ClassVar[frozenset[str]] = frozenset({"threshold"})

    def __init__(self, threshold: float = 0.5) -> None:
        self.threshold = threshold

    @property
    def name(self) -> str:
        return type(self).__name__

    def reconfigure(self, *, threshold: float) -> None:
        self.threshold = threshold

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        threshold = self.threshold
        time.sleep(_WORK_S)
        bad = int(image[0, 0, 0])
        if bad == BAD["exits"]:
            os._exit(3)
        elif bad == BAD["segmentation fault"]:
            ctypes.string_at(0)
        elif bad == BAD["hangs"]:
            time.sleep(10**6)
        elif bad == BAD["holds the interpreter"]:
            re.match(r"(a+)+$", "a" * 60 + "b")  # takes years, and no other thread of the process runs meanwhile
        return {"label": self.name, "confidence": 1.0, "threshold": threshold}


class Other(One):
    """Another class with the same interface."""


class Broken(One):
    """Its model is missing."""

    def __init__(self, threshold: float = 0.5) -> None:
        raise FileNotFoundError("the model is missing")
