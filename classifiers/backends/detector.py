"""Networks that find objects, with the layout of their output, and networks that classify whole images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from classifiers.backends.batch_model import BatchModel
from classifiers.errors import SetupError
from classifiers.imaging import Fit, corners, polygons, suppress

__all__ = ["Candidates", "Detector", "Labeller", "Layout", "Network"]

Canvases = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]


class Network(Protocol):
    """A loaded network and its properties."""

    names: dict[int, str]
    size: tuple[int, int]
    stretch: float
    """See :func:`classifiers.imaging.letterbox`."""
    antialias: bool
    task: str
    keypoint_shape: tuple[int, int]
    """Number of keypoints, and of values for each: x and y, and optionally a confidence."""
    model: BatchModel
    """Canvases in, the head's output (N, rows, columns) out; of a model for masks, also the prototypes (N, C, h, w)."""

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """The layout of an output (N, rows, columns)."""


@dataclass(frozen=True)
class Candidates:
    """The detections of one image before suppression; boxes (K, 4) are x1, y1, x2, y2 in pixels of the canvas."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    extras: npt.NDArray[np.float32]
    """(K, E): coefficients of the mask, or keypoints, or the angle."""
    prototypes: npt.NDArray[np.float32] | None = None
    """(C, h, w), of masks."""
    rotated: npt.NDArray[np.float32] | None = None
    """(K, 5), as in :func:`classifiers.imaging.corners`; then ``boxes`` are the upright ones around them."""

    def best(self, iou: float | None, limit: int) -> Candidates:
        """The best of them, at most ``limit``; ``iou``: without those that overlap a better one by more."""
        if iou is None:
            kept = np.argsort(-self.scores, kind="stable")[:limit]
        else:
            boxes = self.boxes if self.rotated is None else self.rotated
            kept = suppress(boxes, self.scores, self.class_ids, iou, limit)
        return self.part(kept)

    def part(self, kept: npt.NDArray[Any]) -> Candidates:
        """Those at these indices, or where this array of bool is true."""
        rotated = None if self.rotated is None else self.rotated[kept]
        return Candidates(
            self.boxes[kept], self.scores[kept], self.class_ids[kept], self.extras[kept], self.prototypes, rotated
        )


@dataclass(frozen=True)
class Layout:
    """How the output of a head is to be read."""

    columns: bool
    """A candidate is a column, not a row; such heads propose an object many times over."""
    labelled: bool
    """The box is followed by a score and a class id, not by a score for each class."""
    corners: bool
    """The box is x1, y1, x2, y2, not centre, width and height."""
    normalised: bool
    """The box is in shares of the canvas, not in pixels: RT-DETR."""
    overlapping: bool = False
    """Rows, too, may propose an object many times over."""


class Detector:
    """A network and how to read its output.

    Attributes:
        names: class names by class id.
        size: (H, W) of the canvases it takes.
        stretch: how far images fill the canvas, see :func:`classifiers.imaging.letterbox`.
        antialias: images are averaged over areas where they shrink, as most but ultralytics do.
        overlapping: an object may be proposed many times over.
        task: ``"detect"``, ``"segment"`` (masks), ``"pose"`` (keypoints) or ``"obb"`` (rotated boxes).
    """

    def __init__(self, network: Network) -> None:
        self._model = network.model
        self.names = network.names
        self.size = network.size
        self.task = network.task
        self._keypoint_shape = network.keypoint_shape
        output = network.model(np.full((1, *network.size, 3), 114, np.uint8))
        shape = tuple((output[0] if self.task == "segment" else output).shape)
        self._layout = network.layout(shape)
        extras = shape[1 if self._layout.columns else 2] - self._first_extra
        if self.task == "pose" and extras != math.prod(self._keypoint_shape):
            raise SetupError(
                f"the model has {extras} values for the keypoints of an object, and declares that they are "
                f"{self._keypoint_shape}; export it again with ultralytics"
            )
        self.stretch = 1.0 if self._layout.normalised else network.stretch  # RT-DETR is trained on stretched images
        self.antialias = network.antialias
        self.overlapping = self._layout.columns or self._layout.overlapping

    def buffer(self, count: int) -> Canvases:
        """Canvases (count, H, W, 3) uint8 to write to and call this with; the same memory each time."""
        return self._model.buffer(count)

    def sizes_to_warm_up(self, largest: int) -> tuple[int, ...]:
        """Batch sizes to run before the first request, so that no request waits for one-time work."""
        return self._model.sizes_to_warm_up(largest)

    def __call__(self, canvases: Canvases, confidence: float) -> list[Candidates]:
        """Candidates of at least this confidence for each of N canvases (N, H, W, 3) RGB uint8."""
        outputs = self._model(canvases)
        outputs, prototypes = outputs if self.task == "segment" else (outputs, None)
        candidates = outputs.swapaxes(1, 2) if self._layout.columns else outputs
        kept = (candidates[:, :, self._scored] >= confidence).any(2)
        # Selected on the device, for the whole batch at once: copying all of them from a GPU takes longer than the
        # network, and so does asking it once for every image.
        rows = self._model.to_numpy(candidates[kept])
        counts = self._model.to_numpy(kept.sum(1)).astype(np.int64)
        found = [self._read(part) for part in np.split(rows, counts.cumsum()[:-1])]
        if prototypes is not None:
            grids = self._model.to_numpy(prototypes)
            return [replace(each, prototypes=grid) for each, grid in zip(found, grids, strict=True)]
        return found

    def shapes(self, candidates: Candidates, fit: Fit) -> list[dict[str, Any]]:
        """What each candidate has besides its box: ``mask``, ``keypoints`` or ``corners``, in pixels of the image.

        Args:
            candidates: of one image.
            fit: its place on the canvas.
        """
        limit = np.array([fit.width, fit.height], np.float32)
        if candidates.prototypes is not None:
            pairs = zip(candidates.extras, candidates.boxes, strict=True)
            masks = (polygons(extras, candidates.prototypes, box, self.size) for extras, box in pairs)
            return [{"mask": [_rounded(fit.points_to_image(each).clip(0, limit)) for each in mask]} for mask in masks]
        if self.task == "pose":
            keypoints = candidates.extras.reshape(-1, *self._keypoint_shape)
            places = fit.points_to_image(keypoints[:, :, :2]).clip(0, limit)
            confidences = keypoints[:, :, 2:].astype(np.float64).round(4).tolist()
            return [
                {"keypoints": [[*point, *sure] for point, sure in zip(_rounded(of_one), surenesses, strict=True)]}
                for of_one, surenesses in zip(places, confidences, strict=True)
            ]
        if candidates.rotated is not None:
            return [{"corners": _rounded(each)} for each in fit.points_to_image(corners(candidates.rotated))]
        return [{} for _ in candidates.scores]

    @property
    def _scored(self) -> slice:
        return slice(4, 5 if self._layout.labelled else 4 + len(self.names))

    @property
    def _first_extra(self) -> int:
        return 6 if self._layout.labelled else self._scored.stop

    def _read(self, rows: Rows) -> Candidates:
        layout = self._layout
        boxes, extras, rotated = rows[:, :4], rows[:, self._first_extra :], None
        if self.task == "obb":
            rotated = np.concatenate([boxes, extras[:, :1]], axis=1)
            points = corners(rotated)
            boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)
        elif not layout.corners:
            centres, halves = boxes[:, :2], boxes[:, 2:] / 2
            boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        if layout.normalised:
            boxes = boxes * np.array([self.size[1], self.size[0]] * 2, np.float32)
        if layout.labelled:
            return Candidates(boxes, rows[:, 4], rows[:, 5].astype(np.int64), extras, rotated=rotated)
        scores = rows[:, self._scored]
        return Candidates(boxes, scores.max(axis=1, initial=0), scores.argmax(axis=1), extras, rotated=rotated)


class Labeller:
    """A network that classifies whole images.

    Attributes:
        names: class names by class id.
        size: (H, W) of the images it takes.
    """

    def __init__(self, network: Network) -> None:
        self._model = network.model
        self.names = network.names
        self.size = network.size
        self.buffer = network.model.buffer
        self.sizes_to_warm_up = network.model.sizes_to_warm_up
        shape = tuple(network.model(np.full((1, *network.size, 3), 114, np.uint8)).shape)
        if shape != (1, len(network.names)):
            raise SetupError(
                f"an output of shape {shape} is not that of a classifier with {len(network.names)} classes"
            )

    def __call__(self, images: Canvases) -> Rows:
        """The confidences (N, classes) of N images (N, H, W, 3) RGB uint8."""
        return self._model.to_numpy(self._model(images))


def _rounded(points: npt.NDArray[np.float32]) -> list[list[float]]:
    rounded: list[list[float]] = points.astype(np.float64).round(2).tolist()
    return rounded
