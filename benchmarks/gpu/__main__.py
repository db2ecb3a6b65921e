"""python -m benchmarks.gpu: a conditional pipeline on one GPU, in parts and in one process. See README.md."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu.models import MAKES, add_arguments, decoded_bytes, device_name, photos_of, pipeline_of
from classifiers.imaging.decoding import decode
from classifiers.imaging.letterboxing import letterbox
from graph import Plan, VisionPipeline, load_plan
from graph.runtime.runner import load_classifier

_ROUNDS = 5
_BATCHES = (1, 4, 8, 16, 32)
_CALLS = 20


def main() -> None:
    """Make the models, measure each part alone and the whole, and print medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=512, help="of a round")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    plan = load_plan(pipeline_of(options, {}))
    photos = [path.read_bytes() for path in photos_of(options)]
    sizes = [size for size in _BATCHES if size <= options.batch]
    parts = _parts(plan, photos, sizes, options.device.startswith("cuda"))
    rates = {**_decoding(photos), "pipeline, one process": _whole(plan, photos, options)}
    device = device_name(options.device)
    report = {
        "device": device,
        "options": {k: str(v) for k, v in vars(options).items()},
        "ms_by_batch_size": parts,
        "images_per_s": rates,
    }
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    print(f"{device}, {len(os.sched_getaffinity(0))} cores, medians of {_CALLS} calls and {_ROUNDS} rounds")
    print(f"| ms a batch of | {' | '.join(map(str, sizes))} |\n|{'---|' * (1 + len(sizes))}")
    for name, times in parts.items():
        print(f"| {name} | {' | '.join(f'{median(calls):.2f}' for calls in times.values())} |")
    print("\n| images a second | |\n|---|---|")
    for name, rounds in rates.items():
        print(f"| {name} | {median(rounds):.0f} [{min(rounds):.0f}, {max(rounds):.0f}] |")


def _parts(
    plan: Plan, photos: Sequence[bytes], sizes: Sequence[int], on_gpu: bool
) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of each part by itself, by batch size."""
    images = [decode(photo) for photo in photos]
    images = (images * (max(sizes) // len(images) + 1))[: max(sizes)]
    crops = [np.ascontiguousarray(image[:224, :224]) for image in images]
    recorded: list[Any]
    one_by_one: list[Any]
    recorded, one_by_one = ([load_classifier(step) for step in plan] for _ in range(2))
    for model in (one_by_one[0]._detector._model, one_by_one[1]._network):
        model._records = False
    parts: dict[str, Callable[[int], object]] = {}
    ways = {"recorded": recorded, "kernels one by one": one_by_one} if on_gpu else {"kernels one by one": one_by_one}
    for way, (detector, makes) in ways.items():
        find, name = detector._detector, makes._network
        canvases, inputs = find.buffer(max(sizes)), name.buffer(max(sizes))
        parts[f"YOLO, {way}"] = lambda size, find=find, canvases=canvases: find(canvases[:size], 0.25)
        parts[f"ViT, {way}"] = lambda size, name=name, inputs=inputs: name(inputs[:size])
    detector, makes = recorded
    canvases = detector._detector.buffer(max(sizes))
    parts["letterbox"] = lambda size: letterbox(images[:size], canvases[:size])
    parts["detector, pixels to findings"] = lambda size: detector.process_batch(images[:size], [{}] * size)
    parts["makes, crops to labels"] = lambda size: makes.process_batch(crops[:size], [{}] * size)
    return {
        name: {size: _milliseconds(partial(part, size), on_gpu) for size in sizes}
        for name, part in sorted(parts.items())
    }


def _milliseconds(call: Callable[[], object], on_gpu: bool) -> list[float]:
    import torch

    synchronize = torch.cuda.synchronize if on_gpu else lambda: None
    times = []
    for _ in range(3 + _CALLS):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return times[3:]


def _decoding(photos: Sequence[bytes]) -> dict[str, list[float]]:
    """With a process for each core, as replicas decode."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        work = [photo for photo in photos for _ in range(8)]
        rates = _rates(lambda: sum(pool.map(decoded_bytes, work, chunksize=8)), len(work))
    return {f"decoding, {cores} processes": rates}


def _whole(plan: Plan, photos: Sequence[bytes], options: argparse.Namespace) -> list[float]:
    """Encoded photos in, results out, in one process."""
    many = (list(photos) * (options.images // len(photos) + 1))[: options.images]
    with VisionPipeline(plan.config.to_dict()) as pipeline:
        first = pipeline.run_batch(many[: 2 * options.batch])
        if options.every == 1 and any(len(each["context"][MAKES]["objects"]) != options.cars for each in first):
            raise SystemExit("not every car got a make; the rate would be of something else")
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
