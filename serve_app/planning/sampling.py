"""Runs a sample through a pipeline in this process, one image at a time, and measures each step."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from classifiers import SetupError, VisionError
from classifiers.imaging import ImageLimits
from graph import Engine, Frame, Plan
from graph.engine import StepAnswer, StepError, StepInfo, StepRequest
from graph.runtime import StepRunner, load_classifier
from serve_app.planning.measurements import BatchTime, Measurements, StepMeasurements

__all__ = ["measure"]

_REPEATS = 3  # of each batch; the fastest counts, for others are slow because of other processes


@dataclass
class _Record:
    """What is known about a step so far; the first crops are kept for batches of other sizes."""

    memory_mb: float
    crops: Counter[int] = field(default_factory=Counter)
    prepare_cpu_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    kept: list[tuple[Any, Mapping[str, Any]]] = field(default_factory=list)


class _MeasuredSteps:
    """All steps in this process, one call at a time, so that the CPU time of the process is that of the call."""

    crop_budget_bytes: int | None = None

    def __init__(self, plan: Plan) -> None:
        process = psutil.Process()
        self.records: dict[str, _Record] = {}
        self.runners: dict[str, StepRunner] = {}
        self.steps_cpu_s = 0.0
        for step in plan:
            before = process.memory_info().rss
            runner = self.runners[step.name] = StepRunner(plan, step.name, load_classifier(step))
            runner.warm_up()
            grown = max(0, process.memory_info().rss - before)
            self.records[step.name] = _Record(grown / 2**20)
        self._most = {step.name: step.serve.max_batch_size for step in plan}

    async def describe(self) -> Mapping[str, StepInfo]:
        return {name: runner.info for name, runner in self.runners.items()}

    async def ready(self) -> None:
        """The constructor has loaded everything."""

    async def call(self, step: str, request: StepRequest) -> StepAnswer:
        runner, record = self.runners[step], self.records[step]
        began = time.process_time()
        prepared = runner.prepare(request)
        if isinstance(prepared, StepAnswer):
            self.steps_cpu_s += time.process_time() - began
            return prepared
        before = time.process_time()
        outcome: list[Any] | StepError = runner.infer([prepared])[0]
        after = time.process_time()
        answer = runner.finish(prepared, outcome)
        end = time.process_time()
        self.steps_cpu_s += end - began
        record.crops[len(prepared)] += 1
        record.prepare_cpu_s += (before - began) + (end - after)
        record.bytes_in += sum(image.nbytes for image in prepared.images)
        record.bytes_out += len(json.dumps(answer.result)) if answer.result is not None else 0
        room = self._most[step] - len(record.kept)
        record.kept += list(zip(prepared.images, prepared.contexts, strict=True))[: max(0, room)]
        return answer

    def batches(self, step: str) -> dict[int, BatchTime]:
        """The time of the classifier for 1, 2, 4 ... crops of the sample, up to ``max_batch_size``."""
        kept, most = self.records[step].kept, self._most[step]
        sizes = sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})
        return {size: self._batch(step, [kept[i % len(kept)] for i in range(size)]) for size in sizes} if kept else {}

    def _batch(self, step: str, crops: list[tuple[Any, Mapping[str, Any]]]) -> BatchTime:
        images, contexts = [image for image, _ in crops], [dict(context) for _, context in crops]
        taken = []
        for _ in range(_REPEATS):
            started, cpu = time.perf_counter(), time.process_time()
            self.runners[step].classifier.process_batch(images, contexts)
            taken.append((time.perf_counter() - started, time.process_time() - cpu))
        duration_s, cpu_s = min(taken)
        return BatchTime(duration_s=max(duration_s, 1e-9), cpu_s=max(cpu_s, 0.0))


def measure(plan: Plan, images: Iterable[Callable[[ImageLimits], Frame]], source: str) -> Measurements:
    """Run images through a pipeline and measure what each step costs.

    Args:
        plan: the pipeline; all its models are loaded.
        images: functions that load one image each.
        source: where the figures come from.

    Raises:
        SetupError: there are no images, or all of them failed.
    """
    loaders = list(images)
    if not loaders:
        raise SetupError("the sample has no images; give a folder with some of those that you expect, 200 or more")
    steps = _MeasuredSteps(plan)
    engine = Engine(plan, steps)
    image_bytes = result_bytes = succeeded = 0
    failures: Counter[str] = Counter()
    began = time.process_time()
    for load in loaders:
        try:
            frame = load(plan.config.limits)
            result = asyncio.run(engine.run(frame, metadata={}))
        except VisionError as error:
            failures[str(error)] += 1
            continue
        succeeded += 1
        image_bytes += len(frame.data)
        result_bytes += len(json.dumps(result))
    if not succeeded:
        reason, count = failures.most_common(1)[0]
        raise SetupError(f"all {len(loaders)} images of the sample failed, {count} of them with: {reason}")
    entry_cpu_s = max(0.0, time.process_time() - began - steps.steps_cpu_s)
    return Measurements(
        source=f"{source}, in one process on a machine with {os.cpu_count()} cores",
        images=succeeded,
        failed=failures.total(),
        bytes_per_image=image_bytes / succeeded,
        result_bytes=result_bytes / succeeded,
        entry_cpu_s=entry_cpu_s / succeeded,
        steps={name: _summary(record, steps.batches(name)) for name, record in steps.records.items()},
    )


def _summary(record: _Record, batches: dict[int, BatchTime]) -> StepMeasurements:
    images = record.crops.total()
    crops = sum(number * count for number, count in record.crops.items())
    return StepMeasurements(
        images=images,
        crops=dict(sorted(record.crops.items())),
        prepare_cpu_s=max(0.0, record.prepare_cpu_s / max(1, images)),
        batches=batches,
        memory_mb=round(record.memory_mb, 1),
        bytes_in=record.bytes_in / max(1, crops),
        bytes_out=record.bytes_out / max(1, images),
    )
