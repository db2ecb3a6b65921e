"""python -m benchmarks.gpu: a conditional pipeline on one GPU, in parts and in one process. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import numpy as np

from benchmarks.gpu.models import add_arguments, device_name, photos_of, pipeline_of
from classifiers.images import decode
from graph import Plan, VisionPipeline, load_plan
from graph.runner import load_classifier

_ROUNDS = 5


def main() -> None:
    """Make the models, measure each part alone and the whole, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=512, help="of a round")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = load_plan(pipeline_of(options, {}))
    photos = [path.read_bytes() for path in photos_of(options)]
    parts = {**_alone(plan, photos, options), "pipeline, one process": _whole(plan, photos, options)}
    device = device_name(options.device)
    report = {"device": device, "options": {k: str(v) for k, v in vars(options).items()}, "parts": parts}
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    print(f"{device}, {len(os.sched_getaffinity(0))} cores, batch {options.batch}, medians of {_ROUNDS} rounds")
    print("| part | a second |\n|---|---|")
    for name, rounds in parts.items():
        print(f"| {name} | {median(rounds):.0f} [{min(rounds):.0f}, {max(rounds):.0f}] |")


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


if __name__ == "__main__":
    main()
