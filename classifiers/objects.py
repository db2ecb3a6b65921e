"""Finding objects with any model that ultralytics trains or exports, and with detectors of ``transformers``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from classifiers.backends import (
    Candidates,
    Detector,
    Half,
    Labeller,
    RunOptions,
    TransformersDetectors,
    download,
    load_detector,
    open_checkpoint,
    read_config,
)
from classifiers.base import BaseClassifier, Image
from classifiers.errors import SetupError
from classifiers.imaging import Fit, crop, letterbox
from classifiers.labels import ranked
from classifiers.suggestions import nearest
from classifiers.tunables import Tunables, check
from classifiers.weights import TOKENIZER, ModelRef, Runtime, digest_weights, find_model

__all__ = ["ObjectClassifier", "TransformersDetector"]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=10_000)]
ClassNames = Annotated[list[str], Field(min_length=1)]

TextLabels = Annotated[dict[str, str] | list[str], Field(min_length=1)]

_MAX_LABELS = 5


class _Tunables(Tunables):
    confidence: Share
    iou: Share
    max_detections: Count
    classes: ClassNames | None


class _TextTunables(_Tunables):
    labels: TextLabels | None


class _DetectorClassifier(BaseClassifier):
    """The base of detectors of all kinds."""

    tunables: ClassVar[frozenset[str]] = frozenset(_Tunables.model_fields)

    _detector: Detector | Labeller
    _tunables: Any

    def _use(self, detector: Detector | Labeller, tunables: _Tunables) -> None:
        self._class_ids = _ids_of(detector.names, tunables.classes)
        self._detector, self._tunables = detector, tunables
        self.frame_size = detector.size
        if isinstance(detector, Labeller):
            self.input_size, self.resize = detector.size, "center_crop"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(
        self,
        images: Sequence[Image],
        contexts: Sequence[Mapping[str, Any]],  # noqa: ARG002 - part of the interface
    ) -> list[dict[str, Any]]:
        if not images:
            return []
        canvases = self._detector.buffer(len(images))
        if isinstance(self._detector, Labeller):
            return self._labels(self._detector, images, canvases)
        fits = letterbox(images, canvases, self._detector.stretch, self._detector.antialias)
        candidates = self._detector(canvases, self._tunables.confidence)
        return [self._result(self._detector, *pair) for pair in zip(candidates, fits, strict=True)]

    def reconfigure(self, **tunables: Any) -> None:
        self._use(self._detector, check(_Tunables, type(self).__name__, self._tunables.model_dump() | tunables))

    def warm_up(self, batch_size: int) -> None:
        grey = np.full((*self._detector.size, 3), 128, np.uint8)
        for size in self._detector.sizes_to_warm_up(batch_size):
            self.process_batch([grey] * size, [{}] * size)

    def _result(self, detector: Detector, candidates: Candidates, fit: Fit) -> dict[str, Any]:
        if self._class_ids is not None:
            candidates = candidates.part(np.isin(candidates.class_ids, self._class_ids))
        iou = self._tunables.iou if detector.overlapping else None
        best = candidates.best(iou, self._tunables.max_detections)
        detections = [
            {
                "bbox": [round(side, 2) for side in box],
                "confidence": round(score, 4),
                "class_id": class_id,
                "class_name": detector.names[class_id],
                **shape,
            }
            for box, score, class_id, shape in zip(
                fit.to_image(best.boxes).tolist(),
                best.scores.tolist(),
                best.class_ids.tolist(),
                detector.shapes(best, fit),
                strict=True,
            )
            # without boxes on the grey padding around the image
            if round(box[0], 2) < round(box[2], 2) and round(box[1], 2) < round(box[3], 2)
        ]
        return {
            "detections": detections,
            "detected_classes": sorted({detection["class_name"] for detection in detections}),
        }

    def _labels(
        self, labeller: Labeller, images: Sequence[Image], batch: npt.NDArray[np.uint8]
    ) -> list[dict[str, Any]]:
        for image, out in zip(images, batch, strict=True):
            out[:] = crop(image, (0, 0, image.shape[1], image.shape[0]), labeller.size, "center_crop")
        ids = list(labeller.names) if self._class_ids is None else self._class_ids
        names = [labeller.names[class_id] for class_id in ids]
        top_k = min(self._tunables.max_detections, _MAX_LABELS)
        return [ranked(names, row[ids], top_k, self._tunables.confidence) for row in labeller(batch)]


class ObjectClassifier(_DetectorClassifier):
    """Finds objects: their boxes, classes and confidences.

    The result of an image is ``{"detections": [{"bbox": [x1, y1, x2, y2], "confidence": 0.93, "class_id": 5,
    "class_name": "bus"}], "detected_classes": ["bus"]}``: the most confident first, boxes in pixels of the image and
    inside it. It does not depend on the rest of the batch: every image gets its own canvas of the same size.

    Models for segmentation, poses and oriented boxes add to each detection, in pixels of the image:

    - ``mask``: the outlines of the object, a list of polygons, each a list of [x, y]; the largest first, without holes;
    - ``keypoints``: a list of [x, y, confidence], or of [x, y] if the model has no confidences;
    - ``corners``: the four corners [x, y] of the oriented box, in order; ``bbox`` is the upright box around it.

    A model that classifies has no detections. Its result is ``label``, ``confidence`` and up to five ``labels``, and
    the label ``unknown`` with a ``reason`` if none reaches ``confidence``.

    Args:
        model: a .pt checkpoint (one of ultralytics' own is fetched by its name), an .onnx file, a folder with an
            OpenVINO model, a TensorRT .engine, or another of ultralytics' export formats.
        confidence: minimum confidence of a detection, 0..1.
        iou: of two boxes of one class that overlap by more than this, 0..1, the more confident one is kept.
        max_detections: maximum per image.
        classes: names of the classes to report; all of them by default.
        image_size: side of the canvas in pixels; by default the one that the model was trained or exported for.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. OpenVINO is for the CPU.
        half: half precision; ``"auto"``: on a GPU only.

    Raises:
        ModelNotFound: the model is not on this machine, and cannot be fetched.
        SetupError: the file is not such a model, does not work here, or does not have one of ``classes``.
    """

    def __init__(
        self,
        model: ModelRef = "yolo11n.pt",
        confidence: Share = 0.25,
        iou: Share = 0.7,
        max_detections: Count = 300,
        classes: ClassNames | None = None,
        image_size: Annotated[int, Field(ge=32, le=4096, multiple_of=32)] | None = None,
        device: str = "auto",
        half: Half = "auto",
    ) -> None:
        tunables = {"confidence": confidence, "iou": iou, "max_detections": max_detections, "classes": classes}
        checked = check(_Tunables, "ObjectClassifier", tunables)
        path = find_model(model) or download(model)
        self._use(load_detector(path, image_size, device, half), checked)
        self.weights_digest = digest_weights(path)

    @property
    def name(self) -> str:
        return "objects"


class TransformersDetector(_DetectorClassifier):
    """Finds objects with a detector of ``transformers``.

    These are DETR, RT-DETR and others that have classes of their own; and OWL-ViT and Grounding DINO, which look for
    labels that are given as text. The result is that of :class:`ObjectClassifier`.

    Args:
        model: a folder with config.json, preprocessor_config.json and weights (model.safetensors, or an OpenVINO or
            ONNX export with the outputs ``logits`` and ``pred_boxes``); or the id of a repository at the hub.
        labels: for a model that looks for text: a list of labels, or labels with the prompt of each.
        confidence: minimum confidence of a detection, 0..1.
        iou: of two boxes of one class that overlap by more than this, 0..1, the more confident one is kept.
            Only for models that look for text: the others find an object once.
        max_detections: maximum per image.
        classes: names of the classes to report; all of them by default.
        image_size: side of the canvas in pixels. By default the size, or the shorter side, that the checkpoint's image
            processor gives images.
        revision: branch, tag or commit at the hub; pin it, because the hub's cache is not updated.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        half: half precision; ``"auto"``: on a GPU only.
        runtime: ``"torch"``, ``"openvino"`` (on the CPU), ``"onnx"`` (by OpenVINO, on the CPU), or ``"auto"``: torch on
            a GPU, and on a CPU an export if there is one, else torch.
        torch_compile: by ``torch.compile``, where torch runs the model; a replica then takes a minute longer to start.
        trust_remote_code: run Python code that the checkpoint brings. Only for checkpoints whose authors you trust.

    Raises:
        ModelNotFound: the checkpoint, or a part of it, is neither on this machine nor at the hub.
        SetupError: the checkpoint is not a detector, or does not work here or with these arguments.
    """

    tunables: ClassVar[frozenset[str]] = frozenset(_TextTunables.model_fields)

    def __init__(
        self,
        model: ModelRef,
        labels: TextLabels | None = None,
        confidence: Share = 0.25,
        iou: Share = 0.7,
        max_detections: Count = 300,
        classes: ClassNames | None = None,
        image_size: Annotated[int, Field(ge=32, le=4096)] | None = None,
        revision: str | None = None,
        device: str = "auto",
        half: Half = "auto",
        runtime: Runtime = "auto",
        torch_compile: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        tunables = {"confidence": confidence, "iou": iou, "max_detections": max_detections, "classes": classes}
        checked = check(_TextTunables, "TransformersDetector", tunables | {"labels": labels})
        checkpoint = open_checkpoint(model, revision, runtime, device, trust_remote_code, TOKENIZER)
        config = read_config(checkpoint.folder)
        options = RunOptions(device, half, torch_compile)
        self._detectors = TransformersDetectors(checkpoint, config, options, image_size, trust_remote_code)
        self._use(self._detectors.open(_prompts(checked.labels)), checked)
        self.weights_digest = checkpoint.digest

    @property
    def name(self) -> str:
        return "objects"

    def reconfigure(self, **tunables: Any) -> None:
        checked = check(_TextTunables, "TransformersDetector", self._tunables.model_dump() | tunables)
        same = _prompts(checked.labels) == _prompts(self._tunables.labels)
        self._use(self._detector if same else self._detectors.open(_prompts(checked.labels)), checked)


def _ids_of(names: Mapping[int, str], classes: Sequence[str] | None) -> list[int] | None:
    if classes is None:
        return None
    unknown = [name for name in classes if name not in names.values()]
    if unknown:
        hints = ", ".join(f"{name!r}{_hint(name, names.values())}" for name in unknown)
        raise SetupError(f"classes: the model does not know {hints}", classes=unknown)
    return [class_id for class_id, name in names.items() if name in classes]


def _prompts(labels: TextLabels | None) -> dict[str, str]:
    return dict(labels) if isinstance(labels, dict) else {label: label for label in labels or ()}


def _hint(name: str, known: Iterable[str]) -> str:
    meant = nearest(name, known)
    return f" (did you mean {meant!r}?)" if meant else ""
