"""Photos and models that several tests of classifiers use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage

from classifiers.backends import ultralytics_networks as _ultralytics
from classifiers.imaging.letterboxing import letterbox


@pytest.fixture(scope="session")
def photos() -> list[np.ndarray]:
    """Ultralytics' own example photos, of different shapes."""
    assets = Path(_ultralytics._import("ultralytics.utils.checks").__file__).parents[1] / "assets"
    arrays = [np.asarray(PilImage.open(assets / name).convert("RGB")) for name in ("bus.jpg", "zidane.jpg")]
    for array in arrays:
        array.setflags(write=False)
    return arrays


@pytest.fixture(scope="session")
def yolos(photos: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes untrained checkpoints of ultralytics' architectures that nevertheless find things on the photos."""
    import torch

    folder = tmp_path_factory.mktemp("yolos")
    canvases = np.empty((len(photos), 320, 320, 3), np.uint8)
    letterbox(photos, canvases)

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.pt"
        if path.exists():
            return path
        _ultralytics._import("ultralytics.nn.autobackend")
        torch.manual_seed(0)
        model = sys.modules["ultralytics"].YOLO(f"{architecture}.yaml", verbose=False)
        for module in model.model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        # the norms learn the photos: without that, deep features of random weights fade to nothing
        with torch.no_grad():
            model.model.train()(torch.from_numpy(canvases).permute(0, 3, 1, 2) / 255)
        for branch in getattr(model.model.model[-1], "cv3", ()):
            branch[-1].weight.data.normal_(0, 0.5)
            branch[-1].bias.data.fill_(-10)
        model.model.eval()
        model.save(path)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_vit() -> Callable[[Path, Sequence[str]], Path]:
    """Writes an untrained ViT of 32 x 32 pixels with these labels to a folder."""

    def make(folder: Path, labels: Sequence[str]) -> Path:
        import torch
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        torch.manual_seed(0)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = ViTConfig(**small, image_size=32, patch_size=8, id2label=dict(enumerate(labels)))
        model = ViTForImageClassification(config)
        for parameter in model.parameters():  # as initialized, all logits are nearly the same
            parameter.data.normal_(0, 0.2)
        model.save_pretrained(folder)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Untrained models with an image and a text encoder, for images of 32 x 32; not to be changed."""
    root = tmp_path_factory.mktemp("encoders")

    def make(kind: str) -> Path:
        import torch
        import transformers as t

        folder = root / kind
        if folder.exists():
            return folder
        torch.manual_seed(0)
        small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        vision = {**small, "image_size": 32, "patch_size": 8, "projection_dim": 24}
        text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
        text |= {"pad_token_id": 0}
        if kind == "clip":
            config = t.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24)
            model: Any = t.CLIPModel(config)
        else:
            model = t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=text))
        for parameter in model.parameters():
            if parameter.ndim > 1:  # as initialized, all vectors are nearly the same
                parameter.data.normal_(0, 0.3)
        model.logit_scale.data.fill_(2.0)
        if kind == "siglip":
            model.logit_bias.data.fill_(-0.5)
        model.save_pretrained(folder)
        processor = t.CLIPImageProcessor if kind == "clip" else t.SiglipImageProcessor
        size = {"shortest_edge": 32} if kind == "clip" else {"height": 32, "width": 32}
        processor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        return folder

    return make


WORDS = [
    "<pad>",
    "<s>",
    "</s>",
    "<unk>",
    "a",
    "the",
    "photo",
    "of",
    "car",
    "dog",
    "cat",
    "bird",
    "van",
    "delivery",
    ".",
]


def word_tokenizer() -> Any:
    """A tokenizer that knows ``WORDS``, and nothing of parts of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
