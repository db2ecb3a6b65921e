"""Models that ultralytics trains or exports, on the fastest runtime of this machine.

OpenVINO runs OpenVINO and ONNX models on the CPU, without torch; ultralytics runs everything else.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from classifiers.backends.batch_model import BatchModel
from classifiers.backends.detector import Detector, Labeller, Layout, Network
from classifiers.backends.devices import Half, choose_device, choose_half
from classifiers.backends.openvino_model import OpenVinoModel, input_size, read_model
from classifiers.backends.torch_runner import TorchRunner
from classifiers.backends.ultralytics_networks import load_network
from classifiers.errors import SetupError
from classifiers.weights import model_not_found

__all__ = ["load_detector"]

_TASKS = ("detect", "segment", "pose", "obb", "classify")
_DEFAULT_SIZE = 640


def load_detector(path: Path, image_size: int | None, device: str, half: Half) -> Detector | Labeller:
    """Load a model from a file or folder: a detector, or a labeller for a model that classifies.

    Args:
        path: .pt, .onnx, .engine, a folder with an OpenVINO model, or another of ultralytics' export formats.
        image_size: side of the square canvas; ``None``: what the model was trained or exported for.
        device: ``"auto"`` or the name of a torch device.
        half: half precision.

    Raises:
        SetupError: the file is not such a model, or does not work on this machine or with these arguments.
    """
    openvino_file = _openvino_file(path, device)
    if openvino_file is None:
        torch_device = choose_device(device)
        network: Network = _UltralyticsNetwork(path, image_size, torch_device, choose_half(half, torch_device))
    elif device in ("auto", "cpu"):
        network = _OpenVinoNetwork(openvino_file, image_size, half)
    else:
        raise SetupError(f"{path} runs in OpenVINO on the CPU, not on {device!r}; use device: auto, or a .pt model")
    return Labeller(network) if network.task == "classify" else Detector(network)


class _UltralyticsModel:
    """What is known of a model that ultralytics trained."""

    antialias = False
    names: dict[int, str]
    task: str
    end_to_end: bool
    head: str | None

    def layout(self, shape: tuple[int, ...]) -> Layout:
        """Exports declare whether they are end to end; newer ones also name their head."""
        scored = 4 + len(self.names)
        rows, columns = shape[1:] if len(shape) == 3 else (0, 0)
        if self.head == "RTDETRDecoder" and columns in (6, scored):
            return Layout(columns=False, labelled=columns == 6, corners=False, normalised=True)
        if columns >= 6 and self.end_to_end:
            return Layout(columns=False, labelled=True, corners=True, normalised=False)
        if rows == scored or (self.task != "detect" and rows > scored):  # masks, keypoints or angles follow
            return Layout(columns=True, labelled=False, corners=False, normalised=False)
        if columns == scored:  # RT-DETR, of exports that do not name their head
            return Layout(columns=False, labelled=False, corners=False, normalised=True)
        if columns == 6:  # end to end, of exports that do not declare it
            return Layout(columns=False, labelled=True, corners=True, normalised=False)
        if rows > scored:  # masks, keypoints or angles, of exports that do not declare their task
            return Layout(columns=True, labelled=False, corners=False, normalised=False)
        raise SetupError(f"an output of shape {shape} is not that of a detector with {len(self.names)} classes")


class _OpenVinoNetwork(_UltralyticsModel):
    def __init__(self, path: Path, image_size: int | None, half: Half) -> None:
        model = read_model(path)
        about = _about_onnx(model) if path.suffix == ".onnx" else _about_openvino(path)
        self.names = _names(about.get("names"), path)
        self.task = _task(about.get("task"), path)
        self.keypoint_shape = _pair(about.get("kpt_shape") or (0, 0))
        self.end_to_end = _is_end_to_end(about)
        self.head = about.get("head")
        self.stretch = float(about.get("stretch", 0))
        self.size = _export_size(path, image_size, input_size(model), about.get("imgsz"))
        outputs = 2 if self.task == "segment" else 1
        self.model: BatchModel = OpenVinoModel(model, self.size, 0.0, 255.0, half, outputs)


class _UltralyticsNetwork(_UltralyticsModel):
    stretch = 0.0

    def __init__(self, path: Path, image_size: int | None, device: Any, half: bool) -> None:
        import torch

        self._network = network = load_network(path, device, half)
        self._native = path.suffix == ".pt"
        model = network.model
        self.task = _task(getattr(model, "task", None) if self._native else network.task, path)
        self.keypoint_shape = _pair(getattr(network, "kpt_shape", None) or (0, 0))
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
        while isinstance(output, (list, tuple)) and not (self.task == "segment" and hasattr(output[0], "shape")):
            output = output[0]  # further outputs are for training
        if self._native and images.is_cuda:
            # The head makes its grid anew for each batch size; what was recorded for another size still reads that one.
            head = self._network.model.model[-1]
            self._grids[len(images)] = [value for value in vars(head).values() if hasattr(value, "is_cuda")]
        return tuple(output[:2]) if self.task == "segment" else output


def _openvino_file(path: Path, device: str) -> Path | None:
    """The file for OpenVINO to read, ``None`` if ultralytics is to run the model."""
    if path.is_dir():
        files = sorted(path.glob("*.xml"))
        if len(files) > 1:
            raise SetupError(f"{path} has {len(files)} OpenVINO models; name one of its .xml files")
        return files[0] if files else None
    if path.suffix == ".xml" or (path.suffix == ".onnx" and not _onnx_on_gpu(device)):
        return path
    return None


def _onnx_on_gpu(device: str) -> bool:
    if device != "auto" or importlib.util.find_spec("onnxruntime") is None:
        return device not in ("auto", "cpu")
    onnxruntime = importlib.import_module("onnxruntime")
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers() and choose_device("auto").type == "cuda"


def _about_openvino(path: Path) -> Mapping[str, Any]:
    file = path.parent / "metadata.yaml"
    if not file.exists():
        raise model_not_found(str(file), "copy it from the folder that ultralytics exported: it has the class names")
    about: Mapping[str, Any] = yaml.safe_load(file.read_text()) or {}
    return about


def _about_onnx(model: Any) -> Mapping[str, Any]:
    """The metadata of an ONNX file, which are all strings."""
    if not model.has_rt_info("framework"):
        return {}
    texts = {key: value.astype(str) for key, value in model.rt_info["framework"].items()}
    return {key: ast.literal_eval(text) if text[:1] in ("{", "[") else text for key, text in texts.items()}


def _is_end_to_end(about: Mapping[str, Any]) -> bool:
    return str(about.get("end2end", False)) == "True" or bool(about.get("args", {}).get("nms", False))


def _names(names: Any, path: Path) -> dict[int, str]:
    if not names:
        raise SetupError(f"{path} does not name its classes; export it with ultralytics")
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names)
    return {int(class_id): str(name) for class_id, name in pairs}


def _task(task: str | None, path: Path) -> str:
    if task not in (None, *_TASKS):
        raise SetupError(f"{path} is a model for {task!r}; use one for {', '.join(_TASKS[:-1])} or {_TASKS[-1]}")
    return task or "detect"


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
