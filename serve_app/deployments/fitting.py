"""Chooses replicas and placement for a machine, where the pipeline file leaves them open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from classifiers import SetupError
from classifiers.backends import core_count
from graph import Plan, load_plan
from graph.pipeline_file import INGRESS, ServeConfig
from serve_app.config import GatewayConfig

__all__ = ["Fit", "Machine", "fit_to"]

# A file that sets one of these chooses replicas, placement or hardware by itself.
_CHOICES = frozenset(
    {
        "autoscaling",
        "colocate_with",
        "max_ongoing_requests",
        "max_queued_requests",
        "num_gpus",
        "num_replicas",
        "resources",
    }
)


@dataclass(frozen=True)
class Machine:
    """What a pipeline is fitted to: a number of CPU cores."""

    cpus: int

    @classmethod
    def this(cls) -> Machine:
        """This machine, or the part of it that this process may use."""
        return cls(core_count())

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Read ``cpus=16``.

        Raises:
            SetupError: it reads otherwise.
        """
        key, _, cpus = text.partition("=")
        if key.strip() != "cpus" or not cpus.strip().isdecimal() or int(cpus) < 1:
            raise SetupError(f"a machine is described by its number of CPU cores, such as cpus=16; got {text!r}")
        return cls(int(cpus))


@dataclass(frozen=True)
class Fit:
    """A pipeline with replicas and placement for a machine.

    Attributes:
        plan: the pipeline; its results are those of the file.
        gateway: with its number of replicas.
        choice: what was chosen, in one line.
        is_changed: whether it differs from what the file says.
    """

    plan: Plan
    gateway: GatewayConfig
    choice: str
    is_changed: bool


def fit_to(machine: Machine, plan: Plan, gateway: GatewayConfig) -> Fit:
    """Run all steps in the replicas of the gateway, one replica per core.

    No call between processes is left, and no core waits for another process: ``benchmarks/serving`` has the figures.
    Each replica loads all models, and a crash of a step fails the requests of its replica, which one deployment per
    step does not. A file that chooses replicas, placement or GPUs for any step is left as it is.

    Args:
        machine: where the pipeline is to run.
        plan: the pipeline.
        gateway: its own ``num_replicas`` or ``autoscaling`` is kept.
    """
    config = plan.config
    for step in config.pipeline:
        if chosen := sorted(_CHOICES.intersection(step.serve.model_dump(exclude_defaults=True))):
            return Fit(plan, gateway, f"as in the file, which sets {' and '.join(chosen)} of '{step.name}'", False)
    if gateway.num_replicas is None and gateway.autoscaling is None:
        gateway = gateway.model_copy(update={"num_replicas": machine.cpus})
    left = max(0.0, 1 - gateway.num_cpus)  # of the replica's core; Ray takes four decimal places
    num_cpus = math.floor(10_000 * left / len(config.pipeline)) / 10_000
    steps = [
        step.model_copy(update={"serve": _in_the_gateway(step.serve, step.depends_on, num_cpus)})
        for step in config.pipeline
    ]
    choice = (
        f"all steps in each of {gateway.shares} gateway replicas; a crash of a step fails the requests of its replica"
    )
    return Fit(load_plan(config.model_copy(update={"pipeline": steps}).to_dict()), gateway, choice, True)


def _in_the_gateway(options: ServeConfig, depends_on: Sequence[str], num_cpus: float) -> ServeConfig:
    return options.model_copy(update={"colocate_with": depends_on[0] if depends_on else INGRESS, "num_cpus": num_cpus})
