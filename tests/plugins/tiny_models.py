"""Untrained checkpoints of ``transformers``, small enough to be made in a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["WORDS", "save_image_classifier", "save_image_text_model", "save_word_tokenizer", "save_yolo"]

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


def save_image_classifier(folder: Path, labels: Sequence[str]) -> Path:
    """A ViT for images of 32 x 32."""
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


def save_image_text_model(folder: Path, kind: str) -> Path:
    """A model with an image and a text encoder, ``"clip"`` or ``"siglip"``, for images of 32 x 32."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    vision = {**small, "image_size": 32, "patch_size": 8, "projection_dim": 24}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    text |= {"pad_token_id": 0}
    if kind == "clip":
        model: Any = t.CLIPModel(t.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24))
        processor: Any = t.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    else:
        model = t.SiglipModel(t.SiglipConfig(vision_config=vision, text_config=text))
        processor = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    for parameter in model.parameters():
        if parameter.ndim > 1:  # as initialized, all vectors are nearly the same
            parameter.data.normal_(0, 0.3)
    model.logit_scale.data.fill_(2.0)
    if kind == "siglip":
        model.logit_bias.data.fill_(-0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    save_word_tokenizer(folder)
    return folder


def save_word_tokenizer(folder: Path) -> None:
    """A tokenizer that knows ``WORDS``, and nothing of parts of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)


def save_yolo(file: Path) -> Path:
    """An untrained model of ultralytics, of the architecture that its name says. It hardly finds anything."""
    import sys

    from classifiers.backends import ultralytics_networks

    ultralytics_networks._import("ultralytics.nn.autobackend")
    file.parent.mkdir(parents=True, exist_ok=True)
    sys.modules["ultralytics"].YOLO(f"{file.stem}.yaml", verbose=False).save(file)
    return file
