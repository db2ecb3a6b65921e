"""The alternatives: the pipeline of ``benchmarks.serving.straight`` in processes, and in stages of Ray Data.

A batch in which an image cannot be decoded is tried one image at a time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.serving.settings import Settings
from benchmarks.serving.straight import Classifier, Detector, Found, Straight
from classifiers import InputError

_BATCH = 4

_pipeline: Straight


def processes(images: Path, out: Path) -> float:
    """A process per core, each with all models; results to one Parquet file."""
    settings = Settings.read()
    paths = sorted(map(str, images.iterdir()))
    batches = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    os.environ["OMP_NUM_THREADS"] = "1"
    rows: list[dict[str, str]] = []
    with multiprocessing.get_context("spawn").Pool(settings.workers, _start) as pool:
        pool.map(_classified, [batches[0]] * (2 * settings.workers), chunksize=1)  # the models are loaded
        started = time.monotonic()
        for part in pool.imap_unordered(_classified, batches):
            rows += part
        pq.write_table(pa.Table.from_pylist(rows), out / "results.parquet")
        return len(paths) / (time.monotonic() - started)


def _start() -> None:
    global _pipeline  # noqa: PLW0603 - as pools teach it
    _pipeline = Straight(Settings.read())


def _classified(paths: Sequence[str]) -> list[dict[str, str]]:
    try:
        results = _pipeline([Path(path).read_bytes() for path in paths])
    except InputError as error:
        if len(paths) == 1:
            return [{"uri": paths[0], "context": "", "error": str(error)}]
        return [row for path in paths for row in _classified([path])]
    return [{"uri": p, "context": json.dumps(r), "error": ""} for p, r in zip(paths, results, strict=True)]


class Detect:
    """The first stage: files to detections and crops."""

    def __init__(self) -> None:
        self._detector = Detector(Settings.read())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found: list[bytes] = []
        for data in batch["bytes"]:
            try:
                found += [pickle.dumps(one) for one in self._detector([data])]
            except InputError as error:
                found.append(pickle.dumps(Found({"error": str(error)}, {name: [] for name in Settings.read().crops})))
        return {"path": batch["path"], "found": found}


class Classify:
    """A further stage: crops to labels."""

    def __init__(self, name: str) -> None:
        self._classifier = Classifier(Settings.read(), name)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        images = [pickle.loads(data) for data in batch["found"]]
        self._classifier(images)
        return {"path": batch["path"], "found": [pickle.dumps(image) for image in images]}


def map_batches(images: Path, out: Path) -> float:
    """A stage per model, as Ray Data's documentation teaches it."""
    import ray

    settings = Settings.read()
    ray.init(num_cpus=2 * settings.workers, include_dashboard=False, log_to_driver=False)
    started = time.monotonic()
    dataset = ray.data.read_binary_files(str(images), include_paths=True, ray_remote_args={"num_cpus": 0.5})
    dataset = dataset.map_batches(Detect, batch_size=_BATCH, concurrency=settings.workers, num_cpus=1)
    for name in settings.crops:
        dataset = dataset.map_batches(
            Classify, fn_constructor_args=(name,), batch_size=_BATCH, concurrency=1, num_cpus=0.5
        )

    def written(batch: dict[str, Any]) -> dict[str, Any]:
        return {"uri": batch["path"], "context": [json.dumps(pickle.loads(data).context) for data in batch["found"]]}

    dataset.map_batches(written, num_cpus=0.5).write_parquet(str(out))
    return sum(1 for _ in images.iterdir()) / (time.monotonic() - started)


if __name__ == "__main__":
    system, images, out = sys.argv[1:]
    rate = {"processes": processes, "map_batches": map_batches}[system](Path(images), Path(out))
    print(json.dumps({"images_per_s": rate}))
