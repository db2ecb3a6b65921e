"""Any image classifier of ``transformers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from classifiers.backends import (
    Half,
    RunOptions,
    choose_device,
    load_model,
    load_network,
    read_config,
    read_preprocessing,
)
from classifiers.base import BaseClassifier, Image
from classifiers.errors import SetupError
from classifiers.labels import Threshold, TopK, ranked, softmax
from classifiers.tunables import Tunables, check
from classifiers.weights import CODE, ModelRef, Runtime, find_checkpoint

if TYPE_CHECKING:
    import torch

__all__ = ["ImageClassifier"]


class _Tunables(Tunables):
    top_k: TopK
    threshold: Threshold


class ImageClassifier(BaseClassifier):
    """Classifies an image or a crop with any image-classification checkpoint of ``transformers``.

    timm's checkpoints work too, if timm is installed. The labels are those of the checkpoint. The result is
    ``{"label": "Audi", "confidence": 0.81, "labels": [{"label": "Audi", "confidence": 0.81}, ...]}``, the most
    confident first. Confidences are the softmax over all labels.

    Args:
        model: a folder with config.json, preprocessor_config.json and weights (model.safetensors, or an OpenVINO or
            ONNX export); the .xml or .onnx file of an export; or the id of a repository at the Hugging Face hub.
        revision: branch, tag or commit at the hub; pin it, for what is in the hub's cache is used as it is.
        top_k: how many labels to report.
        threshold: if no label has this confidence, 0..1, ``label`` is ``unknown``, and ``reason`` says why.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        half: half precision; ``"auto"``: on a GPU only.
        runtime: ``"torch"``, ``"openvino"`` (on the CPU), ``"onnx"`` (by OpenVINO, on the CPU), or ``"auto"``: torch on
            a GPU, and on a CPU an export if there is one, else torch.
        torch_compile: by ``torch.compile``, where torch runs the model; a replica then takes a minute longer to start.
        trust_remote_code: run Python code that the checkpoint brings. Only for checkpoints whose authors you trust.

    Raises:
        ModelNotFound: the checkpoint, or a part of it, is neither on this machine nor to be had from the hub.
        SetupError: the checkpoint is no image classifier, or does not work here or with these arguments.
    """

    tunables: ClassVar[frozenset[str]] = frozenset(_Tunables.model_fields)

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
        self._tunables = check(_Tunables, type(self).__name__, {"top_k": top_k, "threshold": threshold})
        checkpoint = find_checkpoint(
            model,
            revision,
            runtime,
            lambda: choose_device(device).type == "cuda",
            others=CODE if trust_remote_code else (),
        )
        config = read_config(checkpoint.folder)
        self._preprocessing = seen = read_preprocessing(checkpoint.folder, config, trust_remote_code)

        def load(where: torch.device, dtype: torch.dtype) -> Any:
            network = load_model(
                checkpoint.folder, "AutoModelForImageClassification", "image classifier", trust_remote_code
            ).to(device=where, dtype=dtype)
            return lambda pixels: network(pixel_values=pixels).logits

        self._network = load_network(checkpoint, seen, RunOptions(device, half, torch_compile), load)
        self.input_size, self.resize, self.frame_size = seen.input_size, seen.resize, seen.input_size
        self.weights_digest = checkpoint.digest
        self._labels = _labels(config, self._logits([np.zeros((*seen.input_size, 3), np.uint8)]).shape)

    @property
    def name(self) -> str:
        return "image"

    def process(self, image: Image, context: Mapping[str, Any]) -> dict[str, Any]:
        return self.process_batch([image], [context])[0]

    def process_batch(
        self,
        images: Sequence[Image],
        contexts: Sequence[Mapping[str, Any]],  # noqa: ARG002 - part of the interface
    ) -> list[dict[str, Any]]:
        if not images:
            return []
        top_k, threshold = self._tunables.top_k, self._tunables.threshold
        return [ranked(self._labels, scores, top_k, threshold) for scores in softmax(self._logits(images))]

    def reconfigure(self, **tunables: Any) -> None:
        self._tunables = check(_Tunables, type(self).__name__, self._tunables.model_dump() | tunables)

    def warm_up(self, batch_size: int) -> None:
        height, width = self._preprocessing.input_size
        for size in self._network.sizes_to_warm_up(batch_size):
            self._logits([np.full((height, width, 3), 128, np.uint8)] * size)

    def _logits(self, images: Sequence[Image]) -> npt.NDArray[np.float32]:
        batch = self._preprocessing.batch(images, self._network.buffer(len(images)))
        return self._network.to_numpy(self._network(batch))


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
