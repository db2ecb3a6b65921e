"""The rules of a pipeline file: ``condition``, decided once an image, and ``crops``, decided once a detection.

A rule is an expression in a small, safe part of Python::

    any(d['class_name'] == 'car' and d['confidence'] >= 0.4 for d in context['object_detection']['detections'])

Names: ``context`` (results of steps, only as ``context['step']``), ``image`` (``width``, ``height``, ``metadata``),
and in ``crops`` ``detection``. Literals, subscripts and slices, comparisons, ``in``, ``and or not``,
``+ - * / // % **``, ``x if y else z``, comprehensions, and the functions ``abs all any len max min round sum``; nothing
else, so that a rule can reach nothing else.

Everything means what it means in Python, with these exceptions: an evaluation does a bounded number of operations and
builds values of bounded size, whole numbers end at 2**64 and others at infinity, ``%`` formats no texts (all of them
:class:`RuleError`), and a loop over a set goes in a fixed order, so that a rule is decided alike in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from classifiers.errors import SetupError, VisionError
from graph._rule_budget import Failure, Run
from graph._rule_compiler import CompiledRule, Kind, compile_text
from graph._rule_syntax import Refused
from graph._rule_values import truth

__all__ = ["Kind", "Rule", "RuleError", "RuleSyntaxError", "compile_rule"]


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

    _compiled: CompiledRule = field(compare=False, repr=False)

    def __reduce__(self) -> tuple[Callable[[Kind, str], Rule], tuple[Kind, str]]:
        return compile_rule, (self.kind, self.source)

    def __call__(
        self, *, context: Mapping[str, Any], image: Mapping[str, Any], detection: Mapping[str, Any] | None = None
    ) -> bool:
        """Decide.

        Args:
            context: the results of the steps that the rule ``reads``, by name; plain JSON values.
            image: ``width``, ``height``, ``metadata``.
            detection: the detection that is decided; only for ``crops``.

        Raises:
            RuleError: it cannot be decided with these values.
        """
        run = self._run(context, image, detection)
        try:
            return truth(self._compiled.program(run))
        except _FAILURES as error:
            raise RuleError(f"{_describe(error)} in: {self.source}") from error

    def explain(
        self, *, context: Mapping[str, Any], image: Mapping[str, Any], detection: Mapping[str, Any] | None = None
    ) -> list[tuple[str, object]]:
        """The values that it is decided by, with their texts in the rule: what it reads, and what its calls gave.

        What depends on the variable of a comprehension is left out. The reason stands as text where a value cannot
        be had.
        """
        found: list[tuple[str, object]] = []
        for text, program in self._compiled.watched:
            run = self._run(context, image, detection)
            try:
                found.append((text, program(run)))
            except _FAILURES as error:
                found.append((text, _describe(error)))
        return found

    def _run(self, context: Mapping[str, Any], image: Mapping[str, Any], detection: Mapping[str, Any] | None) -> Run:
        if (detection is None) is (self.kind == "crops"):
            raise ValueError("detection goes with a rule of kind 'crops', and only with it")
        return Run(context, dict(image), None if detection is None else dict(detection))


_FAILURES = (Failure, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What the operators of Python raise on plain values."""


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"


def compile_rule(kind: Kind, source: str) -> Rule:
    """Compile the text of a rule.

    Raises:
        RuleSyntaxError: the text is not a rule.
    """
    source = source.strip()
    try:
        compiled = compile_text(kind, source)
    except Refused as error:
        raise RuleSyntaxError(str(error), error.column) from None
    return Rule(kind, source, compiled.reads, compiled.reads_metadata, compiled)
