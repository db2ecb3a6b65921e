"""Why each step ran on what it ran: every rule, whether it held, and the values that decided it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graph.conditions import Budget, Rule, RuleError
from graph.engine.selection import detections_for
from graph.plan import Plan, PlannedStep

__all__ = ["Decision", "StepExplanation", "explain"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One evaluation of a rule.

    Attributes:
        subject: what it was evaluated for: ``"image"``, or a detection such as ``"#3 person 0.87"``.
        held: whether it held; ``None``: it could not be evaluated, and ``error`` says why.
        values: the parts of the rule that decided it, with their values.
    """

    rule: str
    subject: str
    held: bool | None
    values: tuple[tuple[str, object], ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepExplanation:
    """Why one step ran or not.

    Attributes:
        status: how it ended, as in the result.
        why: the result's reason or error.
        condition: ``None`` if there is none, or it was not evaluated.
        crops: a decision for each detection; empty for a step that looks at the whole image.
    """

    name: str
    status: str
    why: str | None
    condition: Decision | None
    crops: tuple[Decision, ...]


def explain(plan: Plan, result: Mapping[str, Any]) -> list[StepExplanation]:
    """Evaluate every rule of ``plan`` again, on the values in ``result``."""
    image = {key: result["image"][key] for key in ("width", "height")} | {"metadata": result["metadata"]}
    return [_explain_step(plan[entry["name"]], entry, result["context"], image) for entry in result["steps"]]


def _explain_step(
    step: PlannedStep, entry: Mapping[str, Any], results: Mapping[str, Any], image: Mapping[str, Any]
) -> StepExplanation:
    why = entry.get("reason") or entry.get("error", {}).get("detail")
    if not all(name in results for name in step.depends_on):
        return StepExplanation(step.name, entry["status"], why, None, ())
    context = {name: results[name] for name in step.depends_on}
    of_rules, of_values = Budget(step.rule_operations), Budget(step.rule_operations)  # the first as in the engine

    def decide(rule: Rule, subject: str, detection: Mapping[str, Any] | None = None) -> Decision:
        values = tuple(rule.explain(context=context, image=image, detection=detection, budget=of_values))
        try:
            held = rule(context=context, image=image, detection=detection, budget=of_rules)
        except RuleError as error:
            return Decision(rule.source, subject, None, values, str(error))
        return Decision(rule.source, subject, held, values)

    condition = None if step.condition is None else decide(step.condition, "image")
    crops: list[Decision] = []
    if step.crops is not None and (condition is None or condition.held):
        try:
            for index, detection in enumerate(detections_for(step, context)):
                subject = f"#{index} {detection['class_name']} {detection.get('confidence', '')}".strip()
                crops.append(decide(step.crops, subject, detection))
        except RuleError as error:
            crops.append(Decision(step.crops.source, "image", None, (), str(error)))
    return StepExplanation(step.name, entry["status"], why, condition, tuple(crops))
