"""Detectors that ultralytics trains or exports, on whatever runs them best here.

OpenVINO runs OpenVINO and ONNX models on the CPU, without torch; ultralytics runs everything else.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import yaml

from classifiers.backends.batch_model import BatchModel
from classifiers.backends.devices import Half, choose_device, choose_half
from classifiers.backends.openvino_model import OpenVinoModel, input_size, read_model
from classifiers.backends.torch_runner import TorchRunner
from classifiers.backends.ultralytics_networks import load_network
from classifiers.errors import SetupError
from classifiers.weights import model_not_found

__all__ = ["Candidates", "Detector", "load_detector"]

Canvases = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.float32]

_TASKS = ("detect", "segment", "pose")  # those with upright boxes
_DEFAULT_SIZE = 640


class _Network(Protocol):
    """A network that was loaded, and what is known of it."""

    names: dict[int, str]
    size: tuple[int, int]
    stretch: float
    """See :func:`classifiers._letterbox.letterbox`."""
    end_to_end: bool
    head: str | None
    model: BatchModel
    """Canvases in, the head's output (N, rows, columns) out."""


@dataclass(frozen=True)
class Candidates:
    """What a detector proposes for one image; boxes (K, 4) are x1, y1, x2, y2 in pixels of the canvas."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Layout:
    """How the output of a head is to be read."""

    columns: bool
    """A candidate is a column, not a row; such heads propose an object many times over."""
    labelled: bool
    """The box is followed by a score and a class id, not by a score for each class."""
    corners: bool
    """The box is x1, y1, x2, y2, not centre, width and height."""
    normalised: bool
    """The box is in shares of the canvas, not in pixels: RT-DETR."""


class Detector:
    """A network and how to read its output.

    Attributes:
        names: class names by class id.
        size: (H, W) of the canvases it takes.
        stretch: how far images fill the canvas, see :func:`classifiers._letterbox.letterbox`.
        overlapping: an object may be proposed many times over.
    """

    def __init__(self, network: _Network) -> None:
        self._model = network.model
        self.names = network.names
        self.size = network.size
        shape = network.model(np.full((1, *network.size, 3), 114, np.uint8)).shape
        self._layout = _layout(tuple(shape), network)
        self.stretch = 1.0 if self._layout.normalised else network.stretch  # RT-DETR is trained on stretched images
        self.overlapping = self._layout.columns

    def buffer(self, count: int) -> Canvases:
        """Canvases (count, H, W, 3) uint8 to write to and call this with; the same memory each time."""
        return self._model.buffer(count)

    def sizes_to_warm_up(self, largest: int) -> tuple[int, ...]:
        """Batch sizes to run before the first request, so that none waits for what is only done once."""
        return self._model.sizes_to_warm_up(largest)

    def __call__(self, canvases: Canvases, confidence: float) -> list[Candidates]:
        """Candidates of at least this confidence for each of N canvases (N, H, W, 3) RGB uint8."""
        outputs = self._model(canvases)
        candidates = outputs.swapaxes(1, 2) if self._layout.columns else outputs
        kept = (candidates[:, :, self._scored] >= confidence).any(2)
        # Selected on the device, for the whole batch at once: copying all of them from a GPU takes longer than the
        # network, and so does asking it once for every image.
        rows = self._model.to_numpy(candidates[kept])
        counts = self._model.to_numpy(kept.sum(1)).astype(np.int64)
        return [self._read(part) for part in np.split(rows, counts.cumsum()[:-1])]

    @property
    def _scored(self) -> slice:
        return slice(4, 5 if self._layout.labelled else 4 + len(self.names))

    def _read(self, rows: Rows) -> Candidates:
        layout = self._layout
        boxes = rows[:, :4]
        if not layout.corners:
            centres, halves = boxes[:, :2], boxes[:, 2:] / 2
            boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        if layout.normalised:
            boxes = boxes * np.array([self.size[1], self.size[0]] * 2, np.float32)
        if layout.labelled:
            return Candidates(boxes, rows[:, 4], rows[:, 5].astype(np.int64))
        scores = rows[:, self._scored]
        return Candidates(boxes, scores.max(axis=1, initial=0), scores.argmax(axis=1))


def load_detector(path: Path, image_size: int | None, device: str, half: Half) -> Detector:
    """Load a detector from a file or folder.

    Args:
        path: .pt, .onnx, .engine, a folder with an OpenVINO model, or another of ultralytics' export formats.
        image_size: side of the square canvas; ``None``: what the model was trained or exported for.
        device: ``"auto"`` or the name of a torch device.
        half: half precision.

    Raises:
        SetupError: the file is not a detector, or does not work on this machine or with these arguments.
    """
    openvino_file = _openvino_file(path, device)
    if openvino_file is None:
        torch_device = choose_device(device)
        return Detector(_UltralyticsNetwork(path, image_size, torch_device, choose_half(half, torch_device)))
    if device not in ("auto", "cpu"):
        raise SetupError(f"{path} runs in OpenVINO on the CPU, not on {device!r}; use device: auto, or a .pt model")
    return Detector(_OpenVinoNetwork(openvino_file, image_size, half))


class _OpenVinoNetwork:
    def __init__(self, path: Path, image_size: int | None, half: Half) -> None:
        model = read_model(path)
        about = _about_onnx(model) if path.suffix == ".onnx" else _about_openvino(path)
        self.names = _names(about.get("names"), path)
        _check_task(about.get("task"), path)
        self.end_to_end = _is_end_to_end(about)
        self.head = about.get("head")
        self.stretch = float(about.get("stretch", 0))
        self.size = _export_size(path, image_size, input_size(model), about.get("imgsz"))
        self.model: BatchModel = OpenVinoModel(model, self.size, mean=0.0, scale=255.0, half=half)


class _UltralyticsNetwork:
    stretch = 0.0

    def __init__(self, path: Path, image_size: int | None, device: Any, half: bool) -> None:
        import torch

        self._network = network = load_network(path, device, half)
        self._native = path.suffix == ".pt"
        model = network.model
        _check_task(getattr(model, "task", None) if self._native else network.task, path)
        self.names = _names(network.names, path)
        self.end_to_end = bool(network.end2end)
        self.head = type(model.model[-1]).__name__ if self._native else network.metadata.get("head")
        if self._native:
            side = image_size or getattr(model, "args", {}).get("imgsz", _DEFAULT_SIZE)
            self.size = (side, side)
        else:
            fixed = None if network.dynamic else _pair(network.imgsz)
            self.size = _export_size(path, image_size, fixed, network.imgsz)
        if self.size[0] % network.stride or self.size[1] % network.stride:
            raise SetupError(
                f"image_size must be a multiple of {network.stride} for {path.name}, but is {self.size[0]}"
            )
        if self._native and device.type == "cuda":
            model.to(memory_format=torch.channels_last)  # as images are, and a sixth faster
        self._grids: dict[int, list[Any]] = {}
        self.model: BatchModel = TorchRunner(self._output, device, self.size, recordable=self._native)

    def _output(self, images: Any) -> Any:
        if not self._native:  # torch is faster with channels last, as they are
            images = images.contiguous()
        output = self._network((images.half() if self._network.fp16 else images.float()) / 255)
        while isinstance(output, (list, tuple)):  # boxes come before masks and what training needs
            output = output[0]
        if self._native and images.is_cuda:
            # The head makes its grid anew for each batch size; what was recorded for another size still reads that one.
            head = self._network.model.model[-1]
            self._grids[len(images)] = [value for value in vars(head).values() if hasattr(value, "is_cuda")]
        return output


def _openvino_file(path: Path, device: str) -> Path | None:
    """The file for OpenVINO to read, ``None`` if ultralytics is to run the model."""
    if path.is_dir():
        files = sorted(path.glob("*.xml"))
        if len(files) > 1:
            raise SetupError(f"{path} holds {len(files)} OpenVINO models; name one of its .xml files")
        return files[0] if files else None
    if path.suffix == ".xml" or (path.suffix == ".onnx" and not _onnx_on_gpu(device)):
        return path
    return None


def _onnx_on_gpu(device: str) -> bool:
    if device != "auto" or importlib.util.find_spec("onnxruntime") is None:
        return device not in ("auto", "cpu")
    onnxruntime = importlib.import_module("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and choose_device("auto").type == "cuda"


def _layout(shape: tuple[int, ...], network: _Network) -> _Layout:
    """What the output means: exports say whether they are end to end, newer ones also name their head."""
    scored = 4 + len(network.names)
    rows, columns = shape[1:] if len(shape) == 3 else (0, 0)
    if network.head == "RTDETRDecoder" and columns in (6, scored):
        return _Layout(columns=False, labelled=columns == 6, corners=False, normalised=True)
    if columns >= 6 and network.end_to_end:
        return _Layout(columns=False, labelled=True, corners=True, normalised=False)
    if rows == scored:
        return _Layout(columns=True, labelled=False, corners=False, normalised=False)
    if columns == scored:  # RT-DETR, from before exports named their head
        return _Layout(columns=False, labelled=False, corners=False, normalised=True)
    if columns == 6:  # end to end, from before exports said so
        return _Layout(columns=False, labelled=True, corners=True, normalised=False)
    if rows > scored:  # masks or key points follow
        return _Layout(columns=True, labelled=False, corners=False, normalised=False)
    raise SetupError(f"an output of shape {shape} is not that of a detector with {len(network.names)} classes")


def _about_openvino(path: Path) -> Mapping[str, Any]:
    file = path.parent / "metadata.yaml"
    if not file.exists():
        raise model_not_found(str(file), "copy it from the folder that ultralytics exported: it holds the class names")
    about: Mapping[str, Any] = yaml.safe_load(file.read_text()) or {}
    return about


def _about_onnx(model: Any) -> Mapping[str, Any]:
    """The metadata of an ONNX file, which are all texts."""
    if not model.has_rt_info("framework"):
        return {}
    texts = {key: value.astype(str) for key, value in model.rt_info["framework"].items()}
    return {key: ast.literal_eval(text) if text[:1] in ("{", "[") else text for key, text in texts.items()}


def _is_end_to_end(about: Mapping[str, Any]) -> bool:
    return str(about.get("end2end", False)) == "True" or bool(about.get("args", {}).get("nms", False))


def _names(names: Any, path: Path) -> dict[int, str]:
    if not names:
        raise SetupError(f"{path} does not say which classes it knows; export it with ultralytics")
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(class_id): str(name) for class_id, name in pairs}


def _check_task(task: str | None, path: Path) -> None:
    if task not in (None, *_TASKS):
        raise SetupError(
            f"{path} is a model for {task!r}, which has no upright boxes; use one for {' or '.join(_TASKS)}"
        )


def _export_size(path: Path, wanted: int | None, fixed: tuple[int, int] | None, trained: Any) -> tuple[int, int]:
    if fixed is None:
        return _pair(wanted or trained or _DEFAULT_SIZE)
    if wanted is not None and fixed != (wanted, wanted):
        raise SetupError(
            f"{path} was exported for {fixed[0]}x{fixed[1]} (HxW) and takes no other image_size than that; "
            f"leave image_size out, or export it again with imgsz={wanted}"
        )
    return fixed


def _pair(size: Any) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)
