"""Whether a rule compiles and reads only what its step depends on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from classifiers.base import BaseClassifier
from classifiers.suggestions import did_you_mean
from graph.conditions import Rule, RuleSyntaxError, compile_rule

__all__ = ["checked_rule", "default_crops_problem"]


def checked_rule(
    kind: Literal["condition", "crops"],
    source: str,
    depends_on: Collection[str] | None,
    step: str | None = None,
    names: Collection[str] = (),
) -> Rule:
    """Compile a rule of ``step``, in a file that has the steps ``names``. Without ``depends_on`` it may read any step.

    Raises:
        RuleSyntaxError: it does not compile, or reads a step that its own does not depend on.
    """
    rule = compile_rule(kind, source)
    others = sorted(rule.reads - {*depends_on}) if depends_on is not None else []
    if others:
        raise RuleSyntaxError("; and it ".join(_reads(other, step, depends_on or (), names) for other in others))
    return rule


def default_crops_problem(cls: type[BaseClassifier], depends_on: Collection[str]) -> str | None:
    """Why the class's own crop rule does not fit a step with these dependencies; ``None``: it fits, or it has none."""
    if cls.default_crops is None:
        return None
    if not depends_on:
        fix = "add depends_on, or write `crops: null`"
        return f"the class has its own crop rule, and no step gives it detections; {fix}"
    try:
        checked_rule("crops", cls.default_crops, depends_on)
    except RuleSyntaxError as problem:
        return f"the class's own crop rule {cls.default_crops!r} {problem}; write `crops` in the file"
    return None


def _reads(read: str, step: str | None, depends_on: Collection[str], names: Collection[str]) -> str:
    if read == step:
        return f"reads the result of its own step {read!r}, which does not exist yet; read a step it depends on"
    if read in names:
        return f"reads the result of step {read!r}, which this step does not depend on; add {read!r} to depends_on"
    if read == "detection":
        return "reads context['detection']; in a crop rule write detection['class_name'], a condition has no detection"
    known = ", ".join(map(repr, depends_on)) or "none"
    return f"reads unknown step {read!r}{did_you_mean(read, (*depends_on, *names), f'; this step depends on {known}')}"
