"""python -m benchmarks.metrics: CPU time that metrics cost an image. See README.md."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import generate_latest

from graph import Engine, Frame, load_plan
from graph.engine import CropSpec, StepAnswer, StepInfo, StepRequest, Timings
from serve_app.telemetry.metrics import REGISTRY
from serve_app.telemetry.recording import BatchRecorder, ImageRecorder, StepRecorder

_PIPELINE = {
    "name": "street",
    "pipeline": [
        {"name": "detect", "class": "benchmarks.serving.noop.NoOpDetector"},
        {
            "name": "makes",
            "class": "benchmarks.serving.noop.NoOpDetector",
            "depends_on": "detect",
            "condition": "'car' in context['detect']['detected_classes']",
            "crops": "detection['class_name'] == 'car'",
        },
        {
            "name": "colors",
            "class": "benchmarks.serving.noop.NoOpDetector",
            "depends_on": "detect",
            "condition": "'person' in context['detect']['detected_classes']",
            "crops": "detection['class_name'] == 'person'",
        },
    ],
}
_CLASSES = ("car", "person", "person", "bus", "person")


def _detections(count: int) -> list[dict[str, Any]]:
    names = [_CLASSES[index % len(_CLASSES)] for index in range(count)]
    return [{"bbox": [0, 0, 9, 9], "class_name": name, "class_id": 0, "confidence": 0.8} for name in names]


class _Steps:
    """Answers at once."""

    crop_budget_bytes = None

    def __init__(self, plan: Any, detections: int) -> None:
        spec = CropSpec(None, "stretch", 0.0)
        self._infos = {step.name: StepInfo(plan.step_digest(step.name), "", spec) for step in plan}
        self._found = _detections(detections)

    async def describe(self) -> Mapping[str, StepInfo]:
        return self._infos

    async def ready(self) -> None:
        """At once."""

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        result: dict[str, Any] = {"detections": self._found, "detected_classes": sorted(set(_CLASSES))}
        if request.targets is not None:
            result = {"objects": [{"detection": t.index, "label": "x", "confidence": 0.5} for t in request.targets]}
        return StepAnswer(self._infos[step], result, timings=Timings(3.0, 20.0))


async def _cpu_us(run: Callable[[], Any], images: int) -> float:
    started = time.process_time()
    for _ in range(images):
        await run()
    return (time.process_time() - started) / images * 1e6


async def compare(detections: int, images: int, rounds: int) -> dict[str, float]:
    """CPU-us per image of the engine alone, and of it with all that is recorded of an image; in turn."""
    plan = load_plan(_PIPELINE)
    backend, frame = _Steps(plan, detections), Frame(b"x", 640, 480, load_plan(_PIPELINE).config.limits)
    plain, observed = Engine(plan, backend), Engine(plan, backend, observer=StepRecorder(plan))
    image, batches = ImageRecorder("street", "http"), [BatchRecorder(step) for step in plan]

    async def with_metrics() -> None:
        await observed.run(frame)
        image("ok", 0.05)
        for batch in batches:
            batch(8, 0.02)

    found: dict[str, list[float]] = {"without": [], "with": []}
    for index in range(rounds + 1):
        runs = [("without", lambda: plain.run(frame)), ("with", with_metrics)]
        for name, run in runs if index % 2 else reversed(runs):
            found[name].append(await _cpu_us(run, images))
    return {name: statistics.median(values[1:]) for name, values in found.items()}


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=9)
    given = arguments.parse_args()
    print("| detections | engine alone, us | with metrics, us | metrics, us |\n|---|---|---|---|")
    for detections in (0, 2, 5, 10, 20):
        found = asyncio.run(compare(detections, given.images, given.rounds))
        alone, both = found["without"], found["with"]
        print(f"| {detections} | {alone:.0f} | {both:.0f} | {both - alone:.0f} |")
    started = time.process_time()
    size = len(generate_latest(REGISTRY))
    print(f"\none scrape: {size / 1000:.1f} KB, {(time.process_time() - started) * 1000:.1f} CPU-ms")


if __name__ == "__main__":
    main()
