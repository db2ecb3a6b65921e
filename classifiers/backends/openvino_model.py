"""Models that OpenVINO runs on the CPU: its own IR (.xml and .bin) and ONNX."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from classifiers.backends.devices import Half
from classifiers.backends.threads import limit_threads
from classifiers.errors import SetupError
from classifiers.weights import model_not_found

__all__ = ["OpenVinoModel", "import_openvino", "input_size", "read_model", "select_output"]


def import_openvino() -> ModuleType:
    """The package ``openvino``; without the statistics that importing it sends, and notes in the home folder."""
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment] # None: importing it fails
    hide = "openvino_telemetry" not in modules
    if hide:
        modules["openvino_telemetry"] = None
    try:
        import openvino
    finally:
        if hide:
            del modules["openvino_telemetry"]
    module: ModuleType = openvino
    return module


def read_model(path: Path) -> Any:
    """An ``openvino.Model`` from an .xml or .onnx file, not compiled yet.

    Raises:
        ModelNotFound: the .bin beside the .xml is missing.
        SetupError: the file is damaged, or not such a model.
    """
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.exists():
        raise model_not_found(str(weights), f"copy {weights.name} to where {path.name} is: the model is both files")
    try:
        model = import_openvino().Core().read_model(path)
    except RuntimeError as error:
        raise SetupError(f"{path} cannot be read: {_reason(error)}\nfix: export or download it again") from error
    shape = model.inputs[0].partial_shape
    if len(model.inputs) != 1 or shape.rank.get_length() != 4 or str(shape[1]) not in ("3", "?"):
        raise SetupError(f"{path} must have one input of shape (N, 3, H, W), but has {model.inputs}")
    return model


def input_size(model: Any) -> tuple[int, int] | None:
    """(H, W) that a model was exported for, ``None`` if it takes any."""
    shape = model.inputs[0].partial_shape
    if shape.is_dynamic and (shape[2].is_dynamic or shape[3].is_dynamic):
        return None
    return shape[2].get_length(), shape[3].get_length()


def select_output(rank: int) -> Callable[[Any], Any]:
    """A function that reduces a model to its only output with this number of axes.

    Raises:
        SetupError: there is not exactly one; raised by that function.
    """

    def select(model: Any) -> Any:
        fitting = [output for output in model.outputs if output.partial_shape.rank.get_length() == rank]
        if len(fitting) != 1:
            raise SetupError(f"the exported model must have one output with {rank} axes, but has {model.outputs}")
        source = fitting[0].get_node().input_value(0)
        return import_openvino().Model([source], model.get_parameters(), model.get_friendly_name())

    return select


class OpenVinoModel:
    """A compiled model: images in as they are, its outputs out; a :class:`.batch_model.BatchModel`.

    Args:
        model: from :func:`read_model`.
        size: (H, W) of the images that will come.
        mean: of each channel, or of all, in units of pixel values; subtracted first.
        scale: of each channel, or of all; divided by then.
        half: bfloat16. ``"auto"`` and ``False`` are single precision, also on CPUs where OpenVINO by itself would take
            bfloat16: that moves YOLO's boxes by up to 3 pixels, and results would depend on the host.
        outputs: the number of outputs to return, from the first on.
    """

    def __init__(
        self,
        model: Any,
        size: tuple[int, int],
        mean: float | Sequence[float],
        scale: float | Sequence[float],
        half: Half = "auto",
        outputs: int = 1,
    ) -> None:
        self._size = size
        self._outputs = outputs
        if len(model.outputs) < outputs:
            raise SetupError(f"the exported model must have {outputs} outputs, but has {model.outputs}")
        self._buffer = np.empty((0, *size, 3), np.uint8)
        core = import_openvino().Core()
        if half is True and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise SetupError("half: true needs a CPU that computes in bfloat16; use half: auto or half: false")
        batch = model.inputs[0].partial_shape[0]
        # Image by image: on a CPU a batch is not faster a piece (measured: YOLO11n int8 32 ms at 1 and at 4, ViT-S
        # 121 ms at 1 and at 8), fixed shapes are 10% faster than dynamic ones, an image cannot depend on its batch, and
        # int8 models with dynamic shapes crash on CPUs with AMX (openvinotoolkit/openvino#37577).
        self._batch = 1 if batch.is_dynamic else batch.get_length()
        try:
            model.reshape([self._batch, 3, *size])
        except RuntimeError as error:
            raise SetupError(f"the model cannot take images of {size[0]}x{size[1]} (HxW): {_reason(error)}") from error
        self._compiled = core.compile_model(
            _with_uint8_input(model, mean, scale),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if half is True else "f32",
                "INFERENCE_NUM_THREADS": limit_threads(),
                # pinned threads of two processes land on the same core, and each runs at half its speed
                "ENABLE_CPU_PINNING": "NO",
            },
        )

    def buffer(self, count: int) -> npt.NDArray[np.uint8]:
        """See ``BatchModel``."""
        if len(self._buffer) < count:
            self._buffer = np.empty((count, *self._size, 3), np.uint8)
        return self._buffer[:count]

    def sizes_to_warm_up(self, largest: int) -> tuple[int, ...]:
        """See ``BatchModel``: all are the same to it."""
        return (largest,)

    def __call__(self, images: npt.NDArray[np.uint8]) -> Any:
        """(N, H, W, 3) RGB uint8 in, the first output (N, ...) out, or a tuple of several."""
        count = len(images)
        if padding := -count % self._batch:
            images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), np.uint8)])
        answers = [self._compiled(images[i : i + self._batch]) for i in range(0, len(images), self._batch)]
        joined = tuple(_joined([answer[k] for answer in answers])[:count] for k in range(self._outputs))
        return joined[0] if self._outputs == 1 else joined

    def to_numpy(self, part: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See ``BatchModel``."""
        return part


def _joined(parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _with_uint8_input(model: Any, mean: float | Sequence[float], scale: float | Sequence[float]) -> Any:
    """The model with an input of (N, H, W, 3) uint8: transposing and normalising are part of the graph, and fast."""
    openvino = import_openvino()
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    steps.input().preprocess().convert_element_type(openvino.Type.f32).mean(mean).scale(scale)
    return steps.build()


def _reason(error: RuntimeError) -> str:
    """The last line of OpenVINO's message; those before name places in its source."""
    return ([line for line in str(error).splitlines() if line.strip()] or ["no reason given"])[-1].strip()
