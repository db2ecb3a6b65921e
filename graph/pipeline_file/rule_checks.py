"""Whether a rule compiles and reads only what its step depends on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from classifiers.suggestions import did_you_mean
from graph.conditions import Rule, RuleSyntaxError, compile_rule

__all__ = ["UnusableRuleError", "checked_rule"]


class UnusableRuleError(Exception):
    """A rule cannot stand where it stands; the message says why and what to do. Never leaves this package."""


def checked_rule(
    kind: Literal["condition", "crops"],
    source: str,
    step: str | None,
    depends_on: Collection[str] | None,
    names: Collection[str] = (),
) -> Rule:
    """Compile a rule.

    Args:
        kind: what it decides.
        source: its text.
        step: the name of its step, as far as it is known.
        depends_on: what the rule may read; ``None``: not known, and not checked.
        names: the names of all steps.

    Raises:
        UnusableRuleError: it does not compile, or reads a step that its own does not depend on.
    """
    try:
        rule = compile_rule(kind, source)
    except RuleSyntaxError as error:
        raise UnusableRuleError(f"{error} (column {error.column})" if error.column else str(error)) from None
    if depends_on is None:
        return rule
    problems = [_reads(read, step, depends_on, names) for read in sorted(rule.reads - set(depends_on))]
    if problems:
        raise UnusableRuleError("; and it ".join(problems))
    return rule


def _reads(read: str, step: str | None, depends_on: Collection[str], names: Collection[str]) -> str:
    if read == step:
        return f"reads the result of its own step {read!r}, which is not there yet; read one of the steps it depends on"
    if read in names:
        return f"reads the result of step {read!r}, which this step does not depend on; add {read!r} to depends_on"
    if read == "detection":
        return "reads context['detection']; in a crop rule write detection['class_name'], a condition has no detection"
    known = ", ".join(map(repr, depends_on)) or "none"
    return f"reads unknown step {read!r}{did_you_mean(read, (*depends_on, *names), f'; this step depends on {known}')}"
