"""Naming the make of a car with any image-classification checkpoint of ``transformers``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from classifiers.backends import (
    BatchModel,
    Half,
    OpenVinoModel,
    Preprocessing,
    TorchRunner,
    choose_device,
    choose_half,
    compiled,
    limit_threads,
    load_classifier,
    read_model,
    read_preprocessing,
)
from classifiers.base import BaseClassifier, Image
from classifiers.errors import SetupError
from classifiers.tunables import Tunables, check
from classifiers.weights import ModelRef, Runtime, find_checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["StanfordViT"]

TopK = Annotated[int, Field(ge=1, le=1000)]


class _Tunables(Tunables):
    top_k: TopK


class StanfordViT(BaseClassifier):
    """Names the make of a car: whatever labels its checkpoint knows, which need not be a ViT, nor about cars.

    The result is ``{"label": "Audi", "confidence": 0.81, "labels": [{"label": "Audi", "confidence": 0.81}, ...]}``, the
    most confident first. Confidences are the softmax over all labels.

    Args:
        model: a folder with config.json, preprocessor_config.json and weights (model.safetensors, or an OpenVINO or
            ONNX export); the .xml or .onnx file of an export; or the id of a repository at the Hugging Face hub.
        revision: branch, tag or commit at the hub; pin it, for what is in the hub's cache is used as it is.
        top_k: how many labels to report.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        half: half precision; ``"auto"``: on a GPU only.
        runtime: ``"torch"``, ``"openvino"`` (on the CPU), ``"onnx"`` (by OpenVINO, on the CPU), or ``"auto"``: torch on
            a GPU, and on a CPU an export if there is one, else torch.
        torch_compile: by ``torch.compile``, where torch runs the model; a replica then takes a minute longer to start.

    Raises:
        ModelNotFound: the checkpoint, or a part of it, is neither on this machine nor to be had from the hub.
        SetupError: the checkpoint is no image classifier, or does not work here or with these arguments.
    """

    default_crops: ClassVar[str | None] = "detection['class_name'] in ('car', 'truck')"
    tunables: ClassVar[frozenset[str]] = frozenset(_Tunables.model_fields)

    def __init__(
        self,
        model: ModelRef = "therealcyberlord/stanford-car-vit-patch16",
        revision: str | None = None,
        top_k: TopK = 5,
        device: str = "auto",
        half: Half = "auto",
        runtime: Runtime = "auto",
        torch_compile: bool = False,
    ) -> None:
        self._tunables = check(_Tunables, "StanfordViT", {"top_k": top_k})
        checkpoint = find_checkpoint(model, revision, runtime, lambda: choose_device(device).type == "cuda")
        config = _config(checkpoint.folder)
        self._preprocessing = seen = read_preprocessing(checkpoint.folder, config)
        if checkpoint.file is None:
            self._network: BatchModel = _torch_model(
                checkpoint.folder, seen, choose_device(device), half, torch_compile
            )
        elif torch_compile:
            raise SetupError(f"{checkpoint.file} runs in OpenVINO; use runtime: torch, or torch_compile: false")
        elif device in ("auto", "cpu"):
            self._network = OpenVinoModel(read_model(checkpoint.file), seen.model_size, seen.mean, seen.scale, half)
        else:
            raise SetupError(f"{checkpoint.file} runs in OpenVINO on the CPU, not on {device!r}; use device: auto")
        self.input_size, self.resize, self.frame_size = seen.input_size, seen.resize, seen.input_size
        self.weights_digest = checkpoint.digest
        self._labels = _labels(config, self._logits([np.zeros((*seen.input_size, 3), np.uint8)]).shape)

    @property
    def name(self) -> str:
        return "make"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(
        self,
        images: Sequence[Image],
        contexts: Sequence[Mapping[str, Any]],  # noqa: ARG002 - part of the interface
    ) -> list[dict[str, Any]]:
        return [self._result(scores) for scores in _softmax(self._logits(images))] if images else []

    def reconfigure(self, **tunables: Any) -> None:
        self._tunables = check(_Tunables, "StanfordViT", self._tunables.model_dump() | tunables)

    def warm_up(self, batch_size: int) -> None:
        height, width = self._preprocessing.input_size
        for size in self._network.sizes_to_warm_up(batch_size):
            self._logits([np.full((height, width, 3), 128, np.uint8)] * size)

    def _logits(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        batch = self._preprocessing.batch(images, self._network.buffer(len(images)))
        return self._network.to_numpy(self._network(batch))

    def _result(self, scores: npt.NDArray[np.float64]) -> dict[str, Any]:
        best = np.argsort(-scores, kind="stable")[: self._tunables.top_k].tolist()
        labels = [{"label": self._labels[index], "confidence": round(float(scores[index]), 4)} for index in best]
        return {**labels[0], "labels": labels}


def _torch_model(
    folder: Path, seen: Preprocessing, device: torch.device, half: Half, torch_compile: bool
) -> TorchRunner:
    """Logits (N, labels)."""
    import torch

    dtype = torch.float16 if choose_half(half, device) else torch.float32
    model = compiled(load_classifier(folder).to(device=device, dtype=dtype), torch_compile)
    mean, scale = (
        torch.tensor(values, device=device, dtype=dtype).reshape(1, 3, 1, 1) for values in (seen.mean, seen.scale)
    )

    def logits(images: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = model(pixel_values=(images.to(dtype) - mean) / scale).logits
        return output

    limit_threads()
    return TorchRunner(logits, device, seen.model_size, is_compiled=torch_compile)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text())
    except ValueError as error:
        raise SetupError(f"{file} is not JSON: {error}; copy it again from where the checkpoint came from") from error
    if not isinstance(config, dict):
        raise SetupError(f"{file} must hold a JSON object, but holds a {type(config).__name__}")
    return config


def _labels(config: Mapping[str, Any], shape: tuple[int, ...]) -> list[str]:
    """The label of each of the logits (1, labels)."""
    known = config.get("id2label")
    if len(shape) != 2:
        raise SetupError(f"the model must answer with (N, labels), but answers with {shape}")
    if known is None:  # as transformers does
        return [f"LABEL_{index}" for index in range(shape[1])]
    if set(known) != {str(index) for index in range(shape[1])}:
        raise SetupError(f"the model answers with {shape[1]} labels, but id2label in config.json has {len(known)}")
    return [str(known[str(index)]) for index in range(shape[1])]


def _softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares
