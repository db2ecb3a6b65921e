"""Small real classifiers for tests: they need no weights, and their answers can be checked by eye.

The folder stands on the import path, as a package outside the project would.
"""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
import PIL.Image
from pydantic import Field

from classifiers import BaseClassifier, Image, ModelNotFound

COLOURS = {"car": (200, 30, 30), "person": (30, 160, 30), "truck": (30, 30, 200)}
"""The colour that stands for an object of each class."""


def draw(*objects: tuple[str, int, int, int, int], size: tuple[int, int] = (240, 320)) -> Image:
    """A black image of ``size`` (H, W) with an object a rectangle: (class name, x1, y1, x2, y2), corners exclusive."""
    image = np.zeros((*size, 3), np.uint8)
    for name, x1, y1, x2, y2 in objects:
        image[y1:y2, x1:x2] = COLOURS[name]
    return image


def encoded(image: Image, form: str = "PNG", **options: Any) -> bytes:
    """The image as a file of a form that Pillow writes."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, form, **options)
    return file.getvalue()


class Blobs(BaseClassifier):
    """Finds the rectangles that :func:`draw` draws."""

    tunables: ClassVar[frozenset[str]] = frozenset({"min_area"})

    def __init__(self, min_area: Annotated[int, Field(ge=1)] = 4) -> None:
        self.min_area = min_area

    @property
    def name(self) -> str:
        return "blobs"

    def reconfigure(self, *, min_area: int) -> None:
        self.min_area = min_area

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        detections = []
        for class_id, (name, colour) in enumerate(COLOURS.items()):
            near = (np.abs(image.astype(np.int16) - colour).max(axis=2) < 60).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(near)
            for x, y, width, height, area in stats[1:]:
                if area >= self.min_area:
                    box = [x, y, x + width, y + height]
                    detections.append({"bbox": box, "confidence": 0.9, "class_id": class_id, "class_name": name})
        detections.sort(key=lambda d: (d["bbox"][1], d["bbox"][0]))
        return {"detections": detections, "detected_classes": sorted({d["class_name"] for d in detections})}


class ReducedBlobs(Blobs):
    """Finds them in a smaller image too."""

    frame_size = (60, 80)


class MeanColour(BaseClassifier):
    """The class whose colour is nearest to the middle of what it gets."""

    default_crops = "detection['class_name'] == 'person'"
    input_size = (8, 8)

    @property
    def name(self) -> str:
        return "mean_colour"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        assert not image.flags.writeable
        mean = image[2:6, 2:6].reshape(-1, 3).mean(axis=0)
        distances = {name: float(np.abs(mean - colour).sum()) for name, colour in COLOURS.items()}
        label = min(distances, key=distances.__getitem__)
        return {"label": label, "confidence": 1 - distances[label] / 765}


class Size(BaseClassifier):
    """Says what it got: the shape of each image, and how many came together."""

    @property
    def name(self) -> str:
        return "size"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(self, images: Sequence[Image], contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [
            {"height": i.shape[0], "width": i.shape[1], "seen": sorted(c)}
            for i, c in zip(images, contexts, strict=True)
        ]


class Sleeper(BaseClassifier):
    """Takes ``seconds`` for a batch, and counts its calls and images in ``log``, one line each."""

    def __init__(self, seconds: float = 0.0, log: Path | None = None) -> None:
        self.seconds = seconds
        self.log = log
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return "sleeper"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(self, images: Sequence[Image], contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        with self._lock:
            if self.log is not None:
                with self.log.open("a") as file:
                    file.write(f"{len(images)}\n")
            time.sleep(self.seconds)
        return [{"batch": len(images)} for _ in images]


class Worker(BaseClassifier):
    """Takes ``seconds`` for a batch, and says in which process, and with how many others of the batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    @property
    def name(self) -> str:
        return "worker"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(self, images: Sequence[Image], contexts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        time.sleep(self.seconds)
        return [{"process": os.getpid(), "batch": len(images)} for _ in images]


class Lingerer(BaseClassifier):
    """Takes 1 to 6 seconds."""

    @property
    def name(self) -> str:
        return "lingerer"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        time.sleep(random.uniform(1, 6))
        return {"waited": True}


class Patient(BaseClassifier):
    """Takes from a sixth of ``longest_s`` to all of it, the longer the brighter the image; a line in ``log`` a call."""

    def __init__(self, longest_s: float, log: Path) -> None:
        self.longest_s = longest_s
        self.log = Path(log)

    @property
    def name(self) -> str:
        return "patient"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        with self.log.open("a") as file:
            file.write("begun\n")
        time.sleep(self.longest_s * (1 + 5 * float(image.mean()) / 255) / 6)
        return {"waited": True}


class Padded(BaseClassifier):
    """Says the shape of what it gets, which its tunable decides."""

    tunables: ClassVar[frozenset[str]] = frozenset({"scale"})

    def __init__(self, scale: int = 1) -> None:
        self.reconfigure(scale=scale)

    @property
    def name(self) -> str:
        return "padded"

    def reconfigure(self, *, scale: int) -> None:
        self.input_size = (8 * scale, 8 * scale)
        self.frame_size = (240 // scale, 320 // scale)

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return {"height": image.shape[0], "width": image.shape[1]}


class Loaded(BaseClassifier):
    """Says what it was made with, with what it was warmed up, and its ``level`` when it was called."""

    tunables: ClassVar[frozenset[str]] = frozenset({"level"})

    def __init__(self, level: int = 0) -> None:
        self.made_with = self.level = level
        self.warmed_up: list[int] = []

    @property
    def name(self) -> str:
        return "loaded"

    def reconfigure(self, *, level: int) -> None:
        self.level = level

    def warm_up(self, batch_size: int) -> None:
        self.warmed_up.append(batch_size)

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return {"made_with": self.made_with, "level": self.level, "warmed_up": list(self.warmed_up)}


class Missing(Loaded):
    """Has a model that is not there."""

    def __init__(self, level: int = 0) -> None:
        raise ModelNotFound("no such model: missing.bin")


class Where(BaseClassifier):
    """Says in which thread it runs."""

    @property
    def name(self) -> str:
        return "where"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return {"thread": threading.get_ident()}


class Failing(BaseClassifier):
    """Fails on images whose mean is above ``above``, with the others of the batch."""

    def __init__(self, above: float = -1.0) -> None:
        self.above = above

    @property
    def name(self) -> str:
        return "failing"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        if image.mean() > self.above:
            raise ValueError(f"the image's mean is {image.mean():.0f}")
        return {"mean": float(image.mean())}


class Says(BaseClassifier):
    """Answers what it is told to."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    @property
    def name(self) -> str:
        return "says"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.answer


class SaysOfReduced(Says):
    """Its answer is about an image of this size."""

    frame_size = (100, 100)
