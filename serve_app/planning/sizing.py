"""Replicas of each deployment for a rate of images, from what one image costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from classifiers import SetupError
from graph import Plan, PlannedStep
from graph.pipeline_file import INGRESS
from serve_app.planning.measurements import Measurements
from serve_app.planning.packing import Item

__all__ = ["DeploymentSize", "Sizing", "StepLoad", "replicas_for", "size"]

_ENTRY = "gateway"
_PROCESS_GB = 0.4  # a Ray replica that has imported the libraries, without a model
_ROUGHLY = 3.0  # by the rule of three: a step that ran on none of N images runs on at most 3/N of them, with 95 %
_LEAST_RUNS = 30  # images that a step should have run on, so that its rate is within about 35 %, with 95 %


@dataclass(frozen=True)
class StepLoad:
    """What a step does for one image of the day.

    Attributes:
        share: of the images on which it runs.
        crops: per image on which it runs; ``crops_p50`` and ``crops_p99`` are of their distribution.
        batch: the batch size that was assumed.
        busy_s: seconds of its model per image of the day.
        cpu_s, gpu_s: per image of the day.
        bytes_in: pixels that it gets, per image of the day; those of a step on the whole image are the encoded bytes.
    """

    name: str
    share: float
    crops: float
    crops_p50: int
    crops_p99: int
    batch: int
    busy_s: float
    cpu_s: float
    gpu_s: float
    bytes_in: float


@dataclass(frozen=True)
class DeploymentSize:
    """One deployment: the gateway or workers, or a step with those that share its process.

    Attributes:
        busy_s: seconds of a replica per image of the day.
        item: what a replica reserves.
        replicas: at the peak.
        least: at the lowest rate of the day.
        most_images_per_s: of all its replicas, fully used.
        utilisation: of its replicas at the peak.
    """

    name: str
    busy_s: float
    cpu_s: float
    gpu_s: float
    item: Item
    replicas: int
    least: int
    most_images_per_s: float
    utilisation: float

    def backlog_after(self, rate: float, seconds: float) -> float:
        """Images that wait after ``seconds`` of ``rate`` images/s."""
        return max(0.0, rate - self.most_images_per_s) * seconds


@dataclass(frozen=True)
class Sizing:
    """All deployments. ``bottleneck``: the one that a growing load fills first. ``notes``: what to know about it."""

    steps: tuple[StepLoad, ...]
    deployments: tuple[DeploymentSize, ...]
    bottleneck: DeploymentSize
    notes: tuple[str, ...]

    @property
    def most_images_per_s(self) -> float:
        """What all replicas process at most: the rate of the bottleneck."""
        return self.bottleneck.most_images_per_s


def size(
    plan: Plan,
    measured: Measurements,
    peak_per_s: float,
    least_per_s: float = 0.0,
    *,
    utilisation: float = 0.7,
    entry_cpus: float = 0.25,
) -> Sizing:
    """Size all deployments.

    A replica processes one image per ``busy_s`` seconds: its share of a batch of each model, decoding and messages. As
    many are taken as are used to ``utilisation`` at the peak. A replica reserves what the file says, or the
    cores that it keeps busy if those are more.

    Args:
        plan: the pipeline; its placement says which steps share a process.
        measured: what one image costs.
        peak_per_s, least_per_s: highest and lowest rate of the day, in images/s.
        utilisation: above 0, at most 1.
        entry_cpus: CPU cores that a gateway replica or worker reserves at least.

    Raises:
        SetupError: the peak is not above 0, or a step is missing in the measurements, has never run, or needs a GPU
            while none was measured.
    """
    if not (math.isfinite(peak_per_s) and peak_per_s > 0):
        raise SetupError(f"the peak must be above 0 images/s; got {peak_per_s:g}")
    if not 0 < utilisation <= 1:
        raise SetupError(f"the utilisation must be above 0 and at most 1, for example 0.7; got {utilisation:g}")
    _check(plan, measured)
    loads = {step.name: _load(step, measured) for step in plan}
    deployments = []
    for host in (INGRESS, *plan.hosts):
        members = plan.hosted_by(host)
        deployments.append(
            _deployment(host, members, plan, measured, loads, (peak_per_s, least_per_s), utilisation, entry_cpus)
        )
    notes = [
        f"'{name}' ran on only {measured.steps[name].images} of {measured.images} images: its rate is uncertain; "
        f"a sample of {_enlarged(measured, name):,} images would show it on {_LEAST_RUNS}"
        for name in loads
        if measured.steps[name].images < min(_LEAST_RUNS, measured.images)
    ]
    bottleneck = min(deployments, key=lambda each: each.most_images_per_s)
    return Sizing(tuple(loads.values()), tuple(deployments), bottleneck, tuple(notes))


def _check(plan: Plan, measured: Measurements) -> None:
    problems = []
    for step in plan:
        found = measured.steps.get(step.name)
        if found is None:
            known = ", ".join(measured.steps) or "none"
            problems.append(f"step '{step.name}' is not in the measurements, which have: {known}; measure again")
        elif not found.images or not found.total_crops:
            problems.append(
                f"step '{step.name}' never ran on the {measured.images:,} images of the sample, so what it costs is "
                "not known; if it does run, it is "
                f"on less than {min(1.0, _ROUGHLY / measured.images):.1%} of such images "
                f"(95% confidence). Take images on which it runs, or at least {100 * measured.images:,} images; "
                "or write its figures into a measurements file"
            )
        elif not found.batches:
            problems.append(f"step '{step.name}' has no `batches` in the measurements; give at least that of 1 crop")
        elif step.serve.num_gpus > 0 and any(batch.gpu_s is None for batch in found.batches.values()):
            problems.append(
                f"step '{step.name}' reserves {step.serve.num_gpus:g} GPUs, but was measured without one; give a "
                "measurements file with its `gpu_s`, or remove `num_gpus` to plan for CPUs"
            )
    if problems:
        raise SetupError("\n".join(problems))


def _load(step: PlannedStep, measured: Measurements) -> StepLoad:
    found = measured.steps[step.name]
    batch, time = found.best_batch(step.serve.max_batch_size)
    share = found.images / measured.images
    crops = found.total_crops / sum(found.crops.values())
    per_image = share * crops / batch
    return StepLoad(
        step.name,
        share,
        crops,
        found.crops_at(0.5),
        found.crops_at(0.99),
        batch,
        busy_s=per_image * time.duration_s,
        cpu_s=per_image * time.cpu_s + share * found.prepare_cpu_s,
        gpu_s=per_image * (time.gpu_s or 0.0),
        bytes_in=share * (measured.bytes_per_image if step.crops is None else crops * found.bytes_in),
    )


def _deployment(
    host: str,
    members: Sequence[PlannedStep],
    plan: Plan,
    measured: Measurements,
    loads: dict[str, StepLoad],
    rates: tuple[float, float],
    utilisation: float,
    entry_cpus: float,
) -> DeploymentSize:
    is_entry = host == INGRESS
    cpu_s = sum(loads[step.name].cpu_s for step in members)
    gpu_s = sum(loads[step.name].gpu_s for step in members)
    if is_entry:
        calls = sum(loads[name].share for name in plan.hosts)
        own_s = measured.entry_cpu_s + measured.message_cpu_s * calls
    else:
        own_s = measured.message_cpu_s * loads[host].share
    cpu_s += own_s
    # The sum, as on one core: steps of a process may overlap on more cores, and then it does more than planned.
    busy_s = own_s + sum(
        loads[step.name].busy_s + measured.steps[step.name].prepare_cpu_s * loads[step.name].share for step in members
    )
    busy_s = max(busy_s, 1e-9)
    replicas, least = (replicas_for(rate, busy_s, utilisation) for rate in rates)
    reserved = sum(step.serve.num_cpus for step in members) + (entry_cpus if is_entry else 0.0)
    memory_gb = _PROCESS_GB + sum(
        max(measured.steps[step.name].memory_mb, step.serve.memory_mb or 0) / 1024 for step in members
    )
    item = Item(
        _ENTRY if is_entry else host,
        cpus=round(max(reserved, cpu_s / busy_s), 2),
        gpus=_gpu_share(members),
        memory_gb=round(memory_gb, 2),
    )
    most = replicas / busy_s
    return DeploymentSize(item.name, busy_s, cpu_s, gpu_s, item, replicas, least, most, rates[0] / most)


def replicas_for(rate: float, busy_s: float, utilisation: float) -> int:
    """Replicas for ``rate`` images per second that each keep one busy for ``busy_s``; at least 1."""
    return max(1, math.ceil(rate * busy_s / utilisation - 1e-9))


def _gpu_share(members: Sequence[PlannedStep]) -> float:
    total = sum(step.serve.num_gpus for step in members)
    return total if total <= 1 else float(math.ceil(total - 1e-9))


def _enlarged(measured: Measurements, name: str) -> int:
    return math.ceil(_LEAST_RUNS * measured.images / measured.steps[name].images)
