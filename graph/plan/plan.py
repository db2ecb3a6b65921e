"""The plan that the engine runs: the steps of a checked pipeline with their classes, rules and neighbors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any

from graph.conditions import MAX_OPERATIONS, MIN_OPERATIONS, Rule
from graph.pipeline_file import INGRESS, Checked, Draft, PipelineConfig, Source, StepConfig, check, hosts_of
from graph.plan.digests import code_digest, digest
from graph.plan.notes import notes_on
from graph.plan.planned_step import PlannedStep

__all__ = ["Plan", "PlannedStep", "load_plan"]


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A valid pipeline. Can be pickled; unpickling imports the classes.

    Attributes:
        config: what it was made from.
        steps: in file order.
        notes: remarks for its author: what decodes the image again and why, what cannot work.
        structure_digest: SHA-256 of everything that decides the results, except weights: names, classes, their code,
            parameters, dependencies, rules, ``on_error``. Without ``serve``, ``limits`` and the pipeline's name, which
            change no result, and ``timeout_ms``: the result of a step that timed out is not kept.
    """

    config: PipelineConfig
    steps: tuple[PlannedStep, ...]
    notes: tuple[str, ...]
    structure_digest: str
    _step_digests: Mapping[str, str]

    @property
    def name(self) -> str:
        """The pipeline's name."""
        return self.config.name

    @property
    def roots(self) -> tuple[str, ...]:
        """Names of the steps without dependencies, in file order."""
        return tuple(step.name for step in self.steps if not step.depends_on)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Names of the steps that have a deployment, in file order."""
        return tuple(step.name for step in self.steps if step.host == step.name)

    def hosted_by(self, host: str) -> tuple[PlannedStep, ...]:
        """The steps that run in the deployment of this one, itself included, or in the ``INGRESS``; in file order."""
        return tuple(step for step in self.steps if step.host == host)

    def step_digest(self, name: str) -> str:
        """SHA-256 of what a step's answer depends on besides input and weights: class, parameters, code version."""
        return self._step_digests[name]

    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Names of the steps by how far they are from a root, for printing: there is no barrier between the levels."""
        order = TopologicalSorter({step.name: step.depends_on for step in self.steps})
        order.prepare()
        levels: list[tuple[str, ...]] = []
        while ready := order.get_ready():
            levels.append(tuple(step.name for step in self.steps if step.name in ready))
            order.done(*ready)
        return tuple(levels)

    def __getitem__(self, name: str) -> PlannedStep:
        for step in self.steps:
            if step.name == name:
                return step
        raise KeyError(name)

    def __iter__(self) -> Iterator[PlannedStep]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"<Plan {self.name!r}: {', '.join(step.name for step in self.steps)}>"


def load_plan(source: Source) -> Plan:
    """Read, check and plan a pipeline. Imports its classes and loads no model.

    Args:
        source: the path of a pipeline file, or the same as a mapping or a configuration.

    Raises:
        PipelineError: with all errors.
    """
    checked = check(source)
    steps = _planned(checked)
    digests = {
        step.name: digest([step.class_path, config.params, config.decode, code_digest(step.cls)])
        for step, config in zip(steps, checked.config.pipeline, strict=True)
    }
    return Plan(checked.config, steps, notes_on(steps), _structure_digest(steps, digests), digests)


def _planned(checked: Checked) -> tuple[PlannedStep, ...]:
    configs, drafts = checked.config.pipeline, checked.steps
    crops = {config.name: draft.crops for config, draft in zip(configs, drafts, strict=True)}
    cuts = {
        name: tuple(other.name for other in configs if own is None and _can_cut(name, other, crops[other.name]))
        for name, own in crops.items()
    }
    hosts = hosts_of(configs)
    shared = max(MAX_OPERATIONS // max(1, sum(map(_reads_metadata, drafts))), MIN_OPERATIONS)
    return tuple(
        PlannedStep(
            name=config.name,
            class_path=config.class_path,
            cls=draft.cls,
            params=draft.arguments,
            depends_on=config.depends_on,
            condition=draft.condition,
            crops=draft.crops,
            rule_operations=shared if _reads_metadata(draft) else MAX_OPERATIONS,
            crops_from=config.crops_from,
            decode=config.decode,
            timeout_s=None if config.timeout_ms is None else config.timeout_ms / 1000,
            on_error=config.on_error or ("skip" if config.depends_on else "fail"),
            serve=config.serve,
            dependents=tuple(other.name for other in configs if config.name in other.depends_on),
            cuts=cuts[config.name],
            host=hosts[config.name],
            carries=tuple(
                other.name for other in configs if other.name in cuts[config.name] and _can_carry(config, other, hosts)
            ),
        )
        for config, draft in zip(configs, drafts, strict=True)
        if draft.cls is not None
    )


def _reads_metadata(draft: Draft) -> bool:
    return any(rule is not None and rule.reads_metadata for rule in (draft.condition, draft.crops))


def _can_cut(name: str, other: StepConfig, crops: Rule | None) -> bool:
    return name in other.depends_on and crops is not None and crops.reads <= {name} and other.crops_from in (None, name)


def _can_carry(step: StepConfig, other: StepConfig, hosts: Mapping[str, str]) -> bool:
    together = hosts[step.name] == hosts[other.name] != INGRESS
    return together and other.depends_on == (step.name,) and step.timeout_ms is None and other.timeout_ms is None


def _structure_digest(steps: Sequence[PlannedStep], step_digests: Mapping[str, str]) -> str:
    def parts(step: PlannedStep) -> list[Any]:
        rules = [rule and rule.source for rule in (step.condition, step.crops)]
        return [step.name, step_digests[step.name], step.depends_on, *rules, step.crops_from, step.on_error]

    return digest([parts(step) for step in steps])
