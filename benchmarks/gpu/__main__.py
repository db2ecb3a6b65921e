"""python -m benchmarks.gpu: images a second of a conditional pipeline on one GPU. See README.md."""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from classifiers.images import decode
from graph import Plan, VisionPipeline, load_plan
from graph.runner import load_classifier

_CLASSES = 196  # of Stanford Cars
_ROUNDS = 5


def main() -> None:
    """Make the models, measure each part alone and the whole, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--cars", type=int, default=2, help="in an image that has some")
    parser.add_argument("--every", type=int, default=1, help="one image in so many has some")
    parser.add_argument("--compile", action="store_true", help="the ViT by torch.compile")
    parser.add_argument("--images", type=int, default=512, help="of a round")
    parser.add_argument("--tiny", action="store_true", help="small models, to try this without a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = load_plan(_pipeline(options))
    photos = _photos()
    parts = {**_alone(plan, photos, options), "pipeline": _whole(plan, photos, options)}
    report = {"device": _name(options.device), "options": {k: str(v) for k, v in vars(options).items()}, "parts": parts}
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    print(
        f"{report['device']}, {len(os.sched_getaffinity(0))} cores, batch {options.batch}, medians of {_ROUNDS} rounds"
    )
    print("| part | a second |\n|---|---|")
    for name, rounds in parts.items():
        print(f"| {name} | {median(rounds):.0f} [{min(rounds):.0f}, {max(rounds):.0f}] |")


def _pipeline(options: argparse.Namespace) -> dict[str, Any]:
    batch, device = {"max_batch_size": options.batch}, {"device": options.device}
    return {
        "name": "gpu",
        "pipeline": [
            {
                "name": "detect",
                "class": "benchmarks.gpu.planted.PlantedDetector",
                "params": {"model": str(_yolo(options)), "cars": options.cars, "every": options.every, **device},
                "serve": batch,
            },
            {
                "name": "make",
                "class": "classifiers.makes.StanfordViT",
                "params": {"model": str(_vit(options)), "runtime": "torch", "torch_compile": options.compile, **device},
                "depends_on": "detect",
                "condition": "'car' in context['detect']['detected_classes']",
                "serve": batch,
            },
        ],
    }


def _yolo(options: argparse.Namespace) -> Path:
    """YOLO11n as it is built, untrained: as fast as a trained one."""
    from ultralytics import YOLO

    path: Path = (options.out / "yolo11n.pt").absolute()
    if not path.exists():
        YOLO("yolo11n.yaml").save(path)
    return path


def _vit(options: argparse.Namespace) -> Path:
    """ViT-B/16 at 224 pixels, untrained."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    name = "vit-tiny" if options.tiny else "vit-b16"
    folder: Path = (options.out / name).absolute()
    if not (folder / "config.json").exists():
        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
        ViTForImageClassification(ViTConfig(num_labels=_CLASSES, **(small if options.tiny else {}))).save_pretrained(
            folder
        )
        ViTImageProcessor().save_pretrained(folder)
    return folder


def _photos(count: int = 16) -> list[bytes]:
    """JPEGs of 1 megapixel with as much detail as photos have, about 200 KB each."""
    made = []
    for seed in range(count):
        noise = np.random.default_rng(seed).integers(0, 256, (96, 128, 3), np.uint8)
        image = PillowImage.fromarray(noise).resize((1152, 864), PillowImage.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def _alone(plan: Plan, photos: Sequence[bytes], options: argparse.Namespace) -> dict[str, list[float]]:
    """Each part by itself, at full batches: what it could do if nothing else were there."""
    images = [decode(photo) for photo in photos]
    batch = (images * (options.batch // len(images) + 1))[: options.batch]
    detect, make = (load_classifier(step) for step in plan)
    for classifier in (detect, make):
        classifier.warm_up(options.batch)
    crops = [np.ascontiguousarray(image[:224, :224]) for image in batch]
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        return {
            f"decode, {cores} threads": _rates(lambda: list(pool.map(decode, photos * 4)), 4 * len(photos)),
            "detector, images": _rates(lambda: detect.process_batch(batch, [{}] * len(batch)), len(batch)),
            "makes, crops": _rates(lambda: make.process_batch(crops, [{}] * len(crops)), len(crops)),
        }


def _whole(plan: Plan, photos: Sequence[bytes], options: argparse.Namespace) -> list[float]:
    """Encoded photos in, results out, in one process."""
    many = (list(photos) * (options.images // len(photos) + 1))[: options.images]
    with VisionPipeline(plan.config.to_dict()) as pipeline:
        pipeline.run_batch(many[: 2 * options.batch])
        return _rates(lambda: pipeline.run_batch(many), len(many))


def _rates(call: Callable[[], object], count: int) -> list[float]:
    call()
    rates = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        call()
        rates.append(count / (time.perf_counter() - start))
    return rates


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"


if __name__ == "__main__":
    main()
