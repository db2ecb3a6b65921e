"""The detections that a step's crop rule is evaluated for, and those that it picks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from graph.conditions import Budget, Rule, RuleError
from graph.engine.messages import Target
from graph.plan import PlannedStep

__all__ = ["detections_for", "picks"]

Json: TypeAlias = Mapping[str, Any]


def picks(
    crops: Rule, context: Json, image: Json, detections: Sequence[Json], budget: Budget
) -> Iterator[Target | None]:
    """Evaluate a crop rule for each detection, in the detector's order; ``None``: it is not picked.

    Raises:
        RuleError: the rule could not be evaluated for one of them, or ``budget`` is used up.
    """
    for index, detection in enumerate(detections):
        held = crops(context=context, image=image, detection=detection, budget=budget)
        yield Target(index, detection) if held else None


def detections_for(step: PlannedStep, context: Json) -> Sequence[Json]:
    """The detections that the step's crop rule is applied to.

    Raises:
        RuleError: none of the steps it depends on has detections, or several have and ``crops_from`` does not say
        which.
    """
    sources = [name for name in step.depends_on if "detections" in context[name]]
    if step.crops_from is not None:
        sources = [name for name in sources if name == step.crops_from]
    if len(sources) == 1:
        found: Sequence[Json] = context[sources[0]]["detections"]
        return found
    names = ", ".join(repr(name) for name in sources or step.depends_on)
    if sources:
        raise RuleError(f"{names} all have detections; choose one with `crops_from: {sources[0]}`")
    raise RuleError(
        f"no detections to crop from: {step.crops_from or names} has none; depend on a detector, or write `crops: null`"
    )
