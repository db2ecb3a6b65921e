"""Any image classifier of ``transformers``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from classifiers.backends import (
    Half,
    RunOptions,
    load_model,
    load_network,
    open_checkpoint,
    read_config,
    read_preprocessing,
)
from classifiers.errors import SetupError
from classifiers.labels import Floats, LabelClassifier, LabelTunables, Threshold, TopK, softmax
from classifiers.tunables import check
from classifiers.weights import ModelRef, Runtime

if TYPE_CHECKING:
    import torch

__all__ = ["ImageClassifier"]


class ImageClassifier(LabelClassifier):
    """Classifies an image or a crop with any image-classification checkpoint of ``transformers``.

    timm's checkpoints work too, if timm is installed. The labels are those of the checkpoint. The result is
    ``{"label": "Audi", "confidence": 0.81, "labels": [{"label": "Audi", "confidence": 0.81}, ...]}``, the most
    confident first. Confidences are the softmax over all labels.

    Args:
        model: a folder with config.json, preprocessor_config.json and weights (model.safetensors, or an OpenVINO or
            ONNX export); the .xml or .onnx file of an export; or the id of a repository at the Hugging Face hub.
        revision: branch, tag or commit at the hub; pin it, because the hub's cache is not updated.
        top_k: how many labels to report.
        threshold: if no label has this confidence, 0..1, ``label`` is ``unknown``, and ``reason`` says why.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        half: half precision; ``"auto"``: on a GPU only.
        runtime: ``"torch"``, ``"openvino"`` (on the CPU), ``"onnx"`` (by OpenVINO, on the CPU), or ``"auto"``: torch on
            a GPU, and on a CPU an export if there is one, else torch.
        torch_compile: by ``torch.compile``, where torch runs the model; a replica then takes a minute longer to start.
        trust_remote_code: run Python code that the checkpoint brings. Only for checkpoints whose authors you trust.

    Raises:
        ModelNotFound: the checkpoint, or a part of it, is neither on this machine nor at the hub.
        SetupError: the checkpoint is not an image classifier, or does not work here or with these arguments.
    """

    tunables: ClassVar[frozenset[str]] = frozenset(LabelTunables.model_fields)

    def __init__(
        self,
        model: ModelRef,
        revision: str | None = None,
        top_k: TopK = 5,
        threshold: Threshold = 0.0,
        device: str = "auto",
        half: Half = "auto",
        runtime: Runtime = "auto",
        torch_compile: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self._tunables = check(LabelTunables, type(self).__name__, {"top_k": top_k, "threshold": threshold})
        checkpoint = open_checkpoint(model, revision, runtime, device, trust_remote_code)
        folder = checkpoint.folder
        config = read_config(folder)
        seen = read_preprocessing(folder, config, trust_remote_code)

        def load(where: torch.device, dtype: torch.dtype) -> Any:
            network = load_model(folder, "AutoModelForImageClassification", "image classifier", trust_remote_code)
            network = network.to(device=where, dtype=dtype)
            return lambda pixels: network(pixel_values=pixels).logits

        self._use(checkpoint, seen, load_network(checkpoint, seen, RunOptions(device, half, torch_compile), load))
        self._labels = _labels(config, self._output_shape())

    @property
    def name(self) -> str:
        return "image"

    def _confidences(self, outputs: npt.NDArray[np.float32]) -> tuple[list[str], Floats]:
        return self._labels, softmax(outputs)


def _labels(config: Mapping[str, Any], shape: tuple[int, ...]) -> list[str]:
    """The label of each of the logits (1, labels)."""
    if len(shape) != 2:
        raise SetupError(f"the model must answer with (N, labels), but answers with {shape}")
    known = config.get("id2label")
    if "label_names" in config:  # timm's
        known = {str(index): name for index, name in enumerate(config["label_names"])}
    if known is None:  # as transformers does
        return [f"LABEL_{index}" for index in range(shape[1])]
    if set(known) != {str(index) for index in range(shape[1])}:
        raise SetupError(f"the model answers with {shape[1]} labels, but id2label in config.json has {len(known)}")
    return [str(known[str(index)]) for index in range(shape[1])]
