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

import ast
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graph.conditions.budget import Budget, RuleError
from graph.conditions.compiler import FAILURES, Compiled, Kind, Program, describe
from graph.conditions.syntax import RuleSyntaxError

__all__ = ["Kind", "Rule", "compile_rule"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule; made by :func:`compile_rule`. Equal and hashed by kind and source; thread-safe."""

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
        budget = budget or Budget()
        try:
            value = self._program(budget, context, image, detection)
            budget.spend(1)
            return bool(value)
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
        budget = budget or Budget()
        found: list[tuple[str, object]] = []
        for text, program in _explanation(self.kind, self.source):
            try:
                found.append((text, program(budget, context, image, detection)))
            except FAILURES as error:
                found.append((text, describe(error)))
        return found


def compile_rule(kind: Kind, source: str) -> Rule:
    """Compile the text of a rule.

    Raises:
        RuleSyntaxError: the text is not a rule, or a constant part of it cannot be evaluated.
    """
    source, budget = source.strip(), Budget()
    compiled = Compiled(kind, source)
    if isinstance(compiled.text.tree, ast.Tuple):
        raise RuleSyntaxError("a rule with commas always holds; join the parts with 'and' or 'or'", 1)
    for part in compiled.constants:
        try:
            Compiled(kind, compiled.text.of(part)).program(budget, {}, {}, None)
        except FAILURES as error:
            message = f"{describe(error)} in the constant {compiled.text.quote(part)}"
            raise compiled.text.refuse(part, message) from None
    return Rule(kind, source, frozenset(compiled.reads), compiled.reads_metadata, compiled.program)


@functools.lru_cache(maxsize=256)  # asked for every detection
def _explanation(kind: Kind, source: str) -> tuple[tuple[str, Program], ...]:
    """What explains a rule: the text and the program of each name or subscript chain, and of each call."""
    return tuple((text, Compiled(kind, text).program) for text in dict.fromkeys(Compiled(kind, source).watched))
