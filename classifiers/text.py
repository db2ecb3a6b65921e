"""Zero-shot classification: choosing among labels that are given as text."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from classifiers.backends import (
    Half,
    ImageTextModel,
    RunOptions,
    load_network,
    open_checkpoint,
    read_config,
    read_preprocessing,
    select_output,
    unit,
)
from classifiers.errors import SetupError
from classifiers.labels import Floats, LabelClassifier, LabelTunables, Threshold, TopK, softmax
from classifiers.tunables import check
from classifiers.weights import TOKENIZER, ModelRef, Runtime

__all__ = ["ZeroShotClassifier"]

Prompts = Annotated[list[str], Field(min_length=1)]
Labels = Annotated[dict[str, str | Prompts] | list[str], Field(min_length=1)]
Templates = Annotated[list[Annotated[str, Field(pattern=r"\{\}")]], Field(min_length=1)]

_TEMPLATES = ["a photo of a {}"]


class _Tunables(LabelTunables):
    labels: Labels
    templates: Templates


class ZeroShotClassifier(LabelClassifier):
    """Chooses the label that fits an image or a crop best. The labels are text, and no training is needed.

    It takes checkpoints of CLIP and SigLIP. The result is ``{"label": "taxi", "confidence": 0.81, "labels": [{"label":
    "taxi", "confidence": 0.81}, ...]}``, the most confident first. Confidences of CLIP sum to 1 over the labels; those
    of SigLIP are independent of each other.

    Args:
        model: a folder with a checkpoint and its tokenizer, or the id of a repository at the Hugging Face hub. It
            may have an exported image encoder, ``vision_model.xml`` or ``vision_model.onnx``.
        labels: a list of labels; or labels with the prompt of each, or with a list of prompts, whose mean is used:
            ``{delivery van: "a photo of a delivery van", taxi: ["a taxi", "a yellow cab"]}``.
        templates: prompts of labels without prompts; ``{}`` is replaced by the label.
        threshold: if no label has this confidence, 0..1, ``label`` is ``unknown``, and ``reason`` says why.
        top_k: how many labels to report.
        revision: branch, tag or commit at the hub; pin it, because the hub's cache is not updated.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        half: half precision for images; ``"auto"``: on a GPU only.
        runtime: what runs the images: ``"torch"``, ``"openvino"`` or ``"onnx"`` (both by OpenVINO, on the CPU), or
            ``"auto"``: torch on a GPU, and on a CPU an exported model if there is one.
        torch_compile: by ``torch.compile``, where torch runs the images.
        trust_remote_code: run Python code that the checkpoint brings. Only for checkpoints whose authors you trust.

    Raises:
        ModelNotFound: the checkpoint, or a part of it, is neither on this machine nor at the hub.
        SetupError: the checkpoint is not such a model, or does not work here or with these arguments.
    """

    tunables: ClassVar[frozenset[str]] = frozenset(_Tunables.model_fields)

    def __init__(
        self,
        model: ModelRef,
        labels: Labels,
        templates: Templates = _TEMPLATES,
        threshold: Threshold = 0.0,
        top_k: TopK = 5,
        revision: str | None = None,
        device: str = "auto",
        half: Half = "auto",
        runtime: Runtime = "auto",
        torch_compile: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        tunables = {"labels": labels, "templates": templates, "threshold": threshold, "top_k": top_k}
        self._tunables = check(_Tunables, "ZeroShotClassifier", tunables)
        checkpoint = open_checkpoint(model, revision, runtime, device, trust_remote_code, TOKENIZER, "vision_model")
        folder = checkpoint.folder
        seen = read_preprocessing(folder, read_config(folder), trust_remote_code)
        options = RunOptions(device, half, torch_compile)
        self._model = ImageTextModel(folder, trust_remote_code)
        network = load_network(checkpoint, seen, options, self._model.image_encoder, select_output(rank=2))
        self._use(checkpoint, seen, network)
        if checkpoint.file is not None:
            self._model.drop_image_encoder()
        self._prompts = _prompts(self._tunables)
        self._vectors = self._model.vectors(self._prompts)
        width = self._output_shape()[1]
        if width != self._vectors.shape[1]:
            raise SetupError(
                f"{checkpoint.file} gives vectors of {width} numbers, and the text encoder of {folder} gives "
                f"{self._vectors.shape[1]}; export the image encoder of this checkpoint, with its projection"
            )

    @property
    def name(self) -> str:
        return "zero_shot"

    def _confidences(self, outputs: npt.NDArray[np.float32]) -> tuple[list[str], Floats]:
        labels = list(self._prompts)
        similar = unit(outputs) @ self._vectors.T * self._model.scale
        if self._model.bias is None:
            return labels, softmax(similar)
        return labels, 1 / (1 + np.exp(-(similar.astype(np.float64) + self._model.bias)))

    def reconfigure(self, **tunables: Any) -> None:
        checked = check(_Tunables, "ZeroShotClassifier", self._tunables.model_dump() | tunables)
        if (prompts := _prompts(checked)) != self._prompts:
            self._vectors, self._prompts = self._model.vectors(prompts), prompts
        self._tunables = checked


def _prompts(tunables: _Tunables) -> dict[str, list[str]]:
    """The prompts of each label."""
    if isinstance(tunables.labels, list):
        if twice := [label for index, label in enumerate(tunables.labels) if label in tunables.labels[:index]]:
            raise SetupError(f"labels: {twice[0]!r} is listed twice; keep one")
        return {label: [each.replace("{}", label) for each in tunables.templates] for label in tunables.labels}
    return {label: [of_it] if isinstance(of_it, str) else of_it for label, of_it in tunables.labels.items()}
