"""The rules of a pipeline file: ``condition``, evaluated once per image, and ``crops``, evaluated once per detection.

A rule is an expression in a small, safe part of Python::

    any(d['class_name'] == 'car' and d['confidence'] >= 0.4 for d in context['object_detection']['detections'])

Names: ``context`` (results of steps, only as ``context['step']``), ``image`` (``width``, ``height``, ``metadata``),
and in ``crops`` ``detection``. Literals, subscripts and slices, comparisons, ``in``, ``and or not``,
``+ - * / // % **``, ``x if y else z``, comprehensions, and the functions ``abs all any len max min round sum``; nothing
else, so that a rule can reach nothing else.

Everything means what it means in Python, with these exceptions: the rules of a step do a bounded number of operations
for one image (:class:`Budget`), whole numbers end at 2**64 and others at infinity, ``*``, ``%`` and ``sum`` take
numbers only, keys and members of sets are strings and numbers (all of them :class:`RuleError`), and a loop over a set
goes in a fixed order, so that a rule is decided alike in every process. Parts that read nothing are evaluated when the
file is loaded.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graph.conditions.compiler import NAMES, Compiled, Kind, Program
from graph.conditions.syntax import RuleSyntaxError, Text
from graph.conditions.values import FUNCTIONS, Budget, RuleError

__all__ = ["Kind", "Rule", "compile_rule"]

Json: TypeAlias = Mapping[str, Any]

_FAILURES = (RuleError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What helpers and Python's operators raise on plain values."""

_NO_PARTS = (ast.Constant, ast.GeneratorExp, ast.Name, ast.Slice)  # not a rule by themselves, or nothing to evaluate


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule; made by :func:`compile_rule`. Equal and hashed by kind and source; thread-safe.

    Attributes:
        reads: the steps whose results it reads.
        reads_metadata: whether its answer may depend on ``image['metadata']``.
    """

    kind: Kind
    source: str
    reads: frozenset[str] = field(compare=False, repr=False)
    reads_metadata: bool = field(compare=False, repr=False)
    _program: Program = field(compare=False, repr=False)

    def __reduce__(self) -> tuple[Callable[[Kind, str], Rule], tuple[Kind, str]]:
        return compile_rule, (self.kind, self.source)

    def __call__(self, context: Json, image: Json, detection: Json | None = None, budget: Budget | None = None) -> bool:
        """Evaluate the rule.

        Args:
            context: the results of the steps that the rule ``reads``, by name; plain JSON values.
            image: ``width``, ``height``, ``metadata``.
            detection: the detection to decide; only for ``crops``.
            budget: what it may do, shared with other evaluations; a new one without it.

        Raises:
            RuleError: it cannot be decided with these values, or the budget is used up.
        """
        budget = budget or Budget()
        try:
            value = self._program(budget, context, image, detection)
            budget.spend(1)
            return bool(value)
        except _FAILURES as error:
            raise RuleError(f"{_described(error)} in: {self.source}") from error

    def explain(
        self, context: Json, image: Json, detection: Json | None = None, budget: Budget | None = None
    ) -> list[tuple[str, object]]:
        """The values that decide it, each with its text in the rule: what it reads, and what its calls return.

        What depends on the variable of a comprehension is left out. Where evaluation fails, the value is the reason.
        """
        budget = budget or Budget()
        found: list[tuple[str, object]] = []
        for text, program in _explanation(self.kind, self.source):
            try:
                found.append((text, program(budget, context, image, detection)))
            except _FAILURES as error:
                found.append((text, _described(error)))
        return found


def compile_rule(kind: Kind, source: str) -> Rule:
    """Compile the text of a rule.

    Raises:
        RuleSyntaxError: the text is not a rule, or a constant part of it cannot be evaluated.
    """
    source, budget = source.strip(), Budget()
    compiled, text = Compiled(kind, source), Text(source)
    if isinstance(text.tree, ast.Tuple):
        raise RuleSyntaxError("a rule with commas always holds; join the parts with 'and' or 'or'", 1)
    for part in _constants(text.tree):
        try:
            Compiled(kind, text.of(part)).program(budget, {}, {}, None)
        except _FAILURES as error:
            raise text.error(part, f"{_described(error)} in the constant {text.quote(part)}") from None
    return Rule(kind, source, frozenset(compiled.reads), compiled.reads_metadata, compiled.program)


@functools.lru_cache(maxsize=256)  # called for every detection
def _explanation(kind: Kind, source: str) -> tuple[tuple[str, Program], ...]:
    """What explains a rule: the text and the program of each chain of subscripts on a name, and of each call."""
    text = Text(source)
    parts = dict.fromkeys(text.of(part) for part in _explaining(text.tree, NAMES[kind]))
    return tuple((part, Compiled(kind, part).program) for part in parts)


def _described(error: Exception) -> str:
    return str(error) if isinstance(error, RuleError) else f"{type(error).__name__}: {error}"


# ---- parts of a rule


def _explaining(node: ast.AST, names: Collection[str]) -> Iterator[ast.expr]:
    """The longest chains of subscripts on ``names``, and the calls, that need no comprehension variable."""
    if isinstance(node, ast.expr) and _reads_only(node, names):
        if _root(node) in names:
            yield node
            return
        if isinstance(node, ast.Call):
            yield node
            if ast.unparse(node.func) == "len" and _root(node.args[0]) in names:
                return  # its argument would only repeat it at length
    for child in ast.iter_child_nodes(node):
        yield from _explaining(child, names)


def _root(node: ast.expr) -> str | None:
    """The name that a chain of subscripts begins with."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _constants(node: ast.AST) -> Iterator[ast.expr]:
    """The largest parts that read nothing."""
    is_read = not isinstance(getattr(node, "ctx", None), ast.Store)
    if isinstance(node, ast.expr) and not isinstance(node, _NO_PARTS) and is_read and _reads_only(node, ()):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _constants(child)


def _reads_only(node: ast.expr, names: Collection[str]) -> bool:
    """Whether it reads nothing but ``names`` and its own comprehension variables."""
    found = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
    bound = {name.id for name in found if isinstance(name.ctx, ast.Store)}
    return {name.id for name in found} <= {*names, *FUNCTIONS, *bound}
