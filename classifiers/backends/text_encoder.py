"""Prompts and images to vectors of the same space, with a checkpoint such as CLIP or SigLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from classifiers.backends.transformers_loading import load_model, load_tokenizer
from classifiers.errors import SetupError

if TYPE_CHECKING:
    import torch

__all__ = ["ImageTextModel", "tokenize", "unit"]


class ImageTextModel:
    """A model with an encoder for images and one for text. The text encoder stays on the CPU: it runs once per label.

    Args:
        folder: the checkpoint.
        trust_remote_code: run Python code that the checkpoint brings.

    Attributes:
        scale: what similarities, -1..1, are multiplied by.
        bias: what is added then; ``None``: the labels exclude each other, as for CLIP.

    Raises:
        SetupError: it cannot be loaded, or is another kind of model.
    """

    def __init__(self, folder: Path, trust_remote_code: bool) -> None:
        kind = "AutoModelForZeroShotImageClassification"
        self._model = model = load_model(folder, kind, "image and text encoder", trust_remote_code)
        if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
            raise SetupError(f"{folder} holds a {type(model).__name__}; use a checkpoint of CLIP or SigLIP")
        self._tokenizer = load_tokenizer(folder, trust_remote_code)
        self._vision = [child for name, child in model.named_children() if not name.startswith("text")]
        self.scale = model.logit_scale.exp().item()
        self.bias = model.logit_bias.item() if hasattr(model, "logit_bias") else None
        model.float()

    def image_encoder(self, device: torch.device, dtype: torch.dtype) -> Any:
        """A function from normalized images (N, 3, H, W) to vectors (N, D), on a device in a precision."""
        for child in self._vision:
            child.to(device=device, dtype=dtype)
        return lambda pixels: self._model.get_image_features(pixel_values=pixels).pooler_output

    def drop_image_encoder(self) -> None:
        """Free its memory, where an exported one takes its place."""
        for child in self._vision:
            child.to("meta")

    def vectors(self, prompts: Mapping[str, Sequence[str]]) -> npt.NDArray[np.float32]:
        """(labels, D): for each label the mean of its prompts' vectors, of length 1.

        Raises:
            SetupError: the model cannot read a prompt as a whole.
        """
        import torch

        text = self._model.config.text_config
        # SigLIP was trained on prompts that are padded to its full length.
        padding = "max_length" if self.bias is not None else True
        rows = []
        for label, of_label in prompts.items():
            tokens = tokenize(self._tokenizer, of_label, text.max_position_embeddings, padding, label)
            with torch.inference_mode():
                found = unit(self._model.get_text_features(**tokens).pooler_output.numpy())
            rows.append(found.mean(axis=0))
        return unit(np.stack(rows))


def tokenize(tokenizer: Any, prompts: Sequence[str], limit: int, padding: bool | str, label: str) -> dict[str, Any]:
    """Token ids of prompts, as ``transformers`` takes them.

    Raises:
        SetupError: a prompt has more than ``limit`` tokens.
    """
    longest = max(len(ids) for ids in tokenizer(list(prompts))["input_ids"])
    if longest > limit:
        raise SetupError(f"labels: a prompt of {label!r} has {longest} tokens, and the model reads {limit}; shorten it")
    options = {"padding": padding, "max_length": limit if padding == "max_length" else None}
    return dict(tokenizer(list(prompts), return_tensors="pt", **options))


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each row at a length of 1."""
    scaled: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return scaled
