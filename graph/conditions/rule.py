"""The rules of a pipeline file: ``condition``, evaluated once per image, and ``crops``, evaluated once per detection.

A rule is an expression in a small, safe part of Python::

    any(d['class_name'] == 'car' and d['confidence'] >= 0.4 for d in context['object_detection']['detections'])

Names: ``context`` (results of steps, only as ``context['step']``), ``image`` (``width``, ``height``, ``metadata``),
and in ``crops`` ``detection``. Literals, subscripts and slices, comparisons, ``in``, ``and or not``,
``+ - * / // % **``, ``x if y else z``, comprehensions, and the functions ``abs all any len max min round sum``; nothing
else, so that a rule can reach nothing else.

Everything means what it means in Python, with these exceptions: the rules of a step do a bounded number of operations
for one image (:class:`Budget`) and build values of bounded size, whole numbers end at 2**64 and others at infinity,
``%`` formats no strings (all of them :class:`RuleError`), and a loop over a set goes in a fixed order, so that a rule
is decided alike in every process. Parts that read nothing are evaluated when the file is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from classifiers.errors import SetupError, VisionError
from graph.conditions.budget import MAX_OPERATIONS, MIN_OPERATIONS, Budget
from graph.conditions.compiler import FAILURES, Kind, Program, compile_text, describe, programs_shown
from graph.conditions.syntax import Refused
from graph.conditions.values import truth

__all__ = ["MAX_OPERATIONS", "MIN_OPERATIONS", "Budget", "Kind", "Rule", "RuleError", "RuleSyntaxError", "compile_rule"]


class RuleSyntaxError(SetupError):
    """The text is not a rule; the message says what is wrong and the fix.

    Attributes:
        column: where in ``Rule.source`` (the stripped text), in characters from 1; ``None``: no one place.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class RuleError(VisionError):
    """A rule could not be decided: a missing key, a wrong type, a division by zero, too much work."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule; made by :func:`compile_rule`. Equal and hashed by kind and source; any thread may call it."""

    kind: Kind
    source: str
    reads: frozenset[str] = field(compare=False, repr=False)
    """The steps whose results it reads."""

    reads_metadata: bool = field(compare=False, repr=False)
    """Whether its answer may depend on ``image['metadata']``."""

    _program: Program = field(compare=False, repr=False)

    def __reduce__(self) -> tuple[Callable[[Kind, str], Rule], tuple[Kind, str]]:
        return compile_rule, (self.kind, self.source)

    def __call__(
        self,
        *,
        context: Mapping[str, Any],
        image: Mapping[str, Any],
        detection: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
    ) -> bool:
        """Evaluate the rule.

        Args:
            context: the results of the steps that the rule ``reads``, by name; plain JSON values.
            image: ``width``, ``height``, ``metadata``.
            detection: the detection that is decided; only for ``crops``.
            budget: what it may do, shared with other evaluations; a new one without it.

        Raises:
            RuleError: it cannot be decided with these values, or the budget is used up.
        """
        values = self._values(context, image, detection)
        try:
            value = self._program(budget or Budget(), *values)
            return value if value is True or value is False else truth(value)
        except FAILURES as error:
            raise RuleError(f"{describe(error)} in: {self.source}") from error

    def explain(
        self,
        *,
        context: Mapping[str, Any],
        image: Mapping[str, Any],
        detection: Mapping[str, Any] | None = None,
        budget: Budget | None = None,
    ) -> list[tuple[str, object]]:
        """The values that it is decided by, with their texts in the rule: what it reads, and what its calls gave.

        What depends on the variable of a comprehension is left out. Where there is no value, the reason stands there.
        """
        values, budget = self._values(context, image, detection), budget or Budget()
        found: list[tuple[str, object]] = []
        for text, program in programs_shown(self.kind, self.source):
            try:
                found.append((text, program(budget, *values)))
            except FAILURES as error:
                found.append((text, describe(error)))
        return found

    def _values(
        self, context: Mapping[str, Any], image: Mapping[str, Any], detection: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, Any], dict[str, Any], dict[str, Any] | None]:
        if (detection is None) is (self.kind == "crops"):
            raise ValueError("detection goes with a rule of kind 'crops', and only with it")
        image = image if type(image) is dict else dict(image)  # a rule works with plain dicts only
        return context, image, detection if detection is None or type(detection) is dict else dict(detection)


def compile_rule(kind: Kind, source: str) -> Rule:
    """Compile the text of a rule.

    Raises:
        RuleSyntaxError: the text is not a rule, or a constant part of it cannot be evaluated.
    """
    source = source.strip()
    try:
        compiled = compile_text(kind, source)
    except Refused as error:
        raise RuleSyntaxError(str(error), error.column) from None
    return Rule(kind, source, compiled.reads, compiled.reads_metadata, compiled.program)
