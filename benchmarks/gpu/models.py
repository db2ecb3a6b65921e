"""What both measurements run: a YOLO11n and a ViT-B/16 with random weights, in a pipeline, and JPEGs to put into it."""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from classifiers.imaging.decoding import decode

__all__ = ["DETECTOR", "MAKES", "add_arguments", "decoded_bytes", "device_name", "photos_of", "pipeline_of"]

DETECTOR, MAKES = "detector", "makes"

_CLASSES = 196  # of Stanford Cars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What can be chosen for both."""
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cars", type=int, default=2, help="in an image that has some")
    parser.add_argument("--every", type=int, default=1, help="one image in so many has some")
    parser.add_argument("--compile", action="store_true", help="the ViT by torch.compile")
    parser.add_argument("--tiny", action="store_true", help="a small ViT, to try this without a GPU")
    parser.add_argument("--photos", type=Path, help="folder with JPEGs; by default some are made")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))


def pipeline_of(options: argparse.Namespace, serve: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The pipeline; ``serve``: deployment options by step. Makes the models in ``options.out``."""
    device = {"device": options.device}
    return {
        "name": "gpu",
        "pipeline": [
            {
                "name": DETECTOR,
                "class": "benchmarks.gpu.planted.PlantedDetector",
                "params": {"model": str(_yolo(options)), "cars": options.cars, "every": options.every, **device},
                "serve": {"max_batch_size": options.batch, **serve.get(DETECTOR, {})},
            },
            {
                "name": MAKES,
                "class": "classifiers.makes.StanfordViT",
                "params": {"model": str(_vit(options)), "runtime": "torch", "torch_compile": options.compile, **device},
                "depends_on": DETECTOR,
                "condition": f"'car' in context['{DETECTOR}']['detected_classes']",
                "serve": {"max_batch_size": options.batch, **serve.get(MAKES, {})},
            },
        ],
    }


def photos_of(options: argparse.Namespace, count: int = 16) -> list[Path]:
    """Those of ``--photos``, or made JPEGs of 1 megapixel with as much detail as photos have, about 200 KB each."""
    if options.photos is not None:
        found = sorted(options.photos.glob("*.jpg"))
        if not found:
            raise SystemExit(f"--photos: {options.photos} has no .jpg file")
        return found
    return [_made(seed, options.out / f"made{seed}.jpg") for seed in range(count)]


def decoded_bytes(photo: bytes) -> int:
    """Decode a photo for nothing."""
    return decode(photo).nbytes


def device_name(device: str) -> str:
    """What the card calls itself."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


def _yolo(options: argparse.Namespace) -> Path:
    """YOLO11n as it is built, untrained: as fast as a trained one."""
    path: Path = (options.out / "yolo11n.pt").absolute()
    if not path.exists():
        from ultralytics import YOLO

        YOLO("yolo11n.yaml").save(path)
    return path


def _vit(options: argparse.Namespace) -> Path:
    """ViT-B/16 at 224 pixels, untrained."""
    name = "vit-tiny" if options.tiny else "vit-b16"
    folder: Path = (options.out / name).absolute()
    if not (folder / "config.json").exists():
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        ViTForImageClassification(ViTConfig(num_labels=_CLASSES, **(small if options.tiny else {}))).save_pretrained(
            folder
        )
        ViTImageProcessor().save_pretrained(folder)
    return folder


def _made(seed: int, path: Path) -> Path:
    noise = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), np.uint8)
    image = PillowImage.fromarray(noise).resize((1152, 864), PillowImage.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    path.write_bytes(file.getvalue())
    return path
