"""Compiles the text of a rule to a Python function.

Every kind of node that a rule may have is handled here; all others are refused. Control flow (``and``, ``if``, loops)
stays Python, and every operation whose cost depends on the values becomes a call of a helper that charges the budget
first. The function has no builtins, and a rule cannot contain a name that begins with ``__``, as those of the helpers
do.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from typing import Any, Literal

from classifiers.suggestions import did_you_mean
from graph.conditions.budget import RuleError
from graph.conditions.syntax import TOO_DEEP, RuleSyntaxError, Text, attribute, call, unknown_name, unsupported
from graph.conditions.values import ARITHMETIC, FUNCTIONS, HELPERS

__all__ = ["FAILURES", "Compiled", "Kind", "Program", "describe"]

Kind = Literal["condition", "crops"]

Program = Callable[..., Any]
"""A compiled expression; takes the budget, ``context``, ``image`` and ``detection``."""

FAILURES = (RuleError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What helpers and Python's operators raise on plain values."""

_GLOBALS = {"__builtins__": {}, "__slice": slice, **{f"__{name}": helper for name, helper in HELPERS.items()}}
_PARAMETERS = ("__budget", "context", "image", "detection")
_NAMES: dict[Kind, frozenset[str]] = {"condition": frozenset(_PARAMETERS[1:3]), "crops": frozenset(_PARAMETERS[1:])}
_IMAGE_KEYS = ("height", "metadata", "width")
_AS_THEY_ARE = (ast.Tuple, ast.List, ast.BoolOp, ast.IfExp, ast.Load, ast.boolop)
_NO_PARTS = (ast.Constant, ast.GeneratorExp, ast.Name, ast.Slice)  # they cannot stand alone, or need no evaluation
_LAZY = ("all", "any", "max", "min", "sum")  # they may have a comprehension as their argument


def describe(error: Exception) -> str:
    """One of ``FAILURES`` in words."""
    return str(error) if isinstance(error, RuleError) else f"{type(error).__name__}: {error}"


class Compiled(ast.NodeTransformer):
    """A compiled expression.

    Attributes:
        program: the function.
        reads: the steps whose results it reads.
        reads_metadata: whether its value may depend on ``image['metadata']``.
        constants: the largest parts that read nothing.
        watched: the text of each part that explains it.

    Raises:
        RuleSyntaxError: the text is not an expression that a rule may be.
    """

    def __init__(self, kind: Kind, source: str) -> None:
        self.text = Text(source)
        self.reads: set[str] = set()
        self.reads_metadata = False
        self._names = _NAMES[kind]
        self._variables: set[str] = set()  # of comprehensions, in reach
        self.constants = [*_constants(self.text.tree)]
        self.watched = [self.text.of(part) for part in _watched(self.text.tree, self._names)]
        arguments = ast.arguments([], [ast.arg(name) for name in _PARAMETERS], None, [], [], None, [])
        tree = ast.Expression(ast.Lambda(arguments, self.visit(self.text.tree)))
        try:
            code = compile(ast.fix_missing_locations(tree), "<rule>", "eval")
        except (SyntaxError, RecursionError, MemoryError):  # whatever the compiler says of its own stack
            raise RuleSyntaxError(TOO_DEEP) from None
        self.program: Program = eval(code, dict(_GLOBALS))  # noqa: S307

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, _AS_THEY_ARE):
            return super().generic_visit(node)
        raise self._unsupported(node)

    def _unsupported(self, node: Any, kind: str | None = None) -> RuleSyntaxError:
        return self.text.refuse(node, unsupported(kind or type(node).__name__, self.text.quote(node)))

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, str | int | float | None):
            raise self._unsupported(node, type(node.value).__name__)
        return node

    def visit_Set(self, node: ast.Set) -> ast.expr:
        node.elts = [self._key(element) for element in node.elts]
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        if None in node.keys:
            raise self._unsupported(node, "Starred")
        node.keys = [self._key(key) for key in node.keys if key is not None]
        node.values = [self.visit(value) for value in node.values]
        return node

    def _key(self, node: ast.expr) -> ast.expr:
        return self.visit(node) if isinstance(node, ast.Constant) else _helper("key", self.visit(node))

    # ---- names and subscripts

    def visit_Name(self, node: ast.Name) -> ast.expr:
        name = node.id
        if name in self._variables or name in self._names - {"context"}:
            self.reads_metadata = self.reads_metadata or name == "image"
            return node
        message = unknown_name(name, self._names | self._variables, FUNCTIONS)
        if name == "context":
            message = "context is only read as context['step'], with the name of a step in quotes"
        elif name == "detection":
            fix = "any(d['class_name'] == 'car' for d in context['step']['detections'])"
            message = f"detection is only known in crops, evaluated once per detection; write {fix}, or use crops"
        elif name in FUNCTIONS:
            message = f"{name} is a function; write {name}(...)"
        raise self.text.refuse(node, message)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        match node:
            case ast.Subscript(ast.Name("context"), ast.Constant(str() as step)):
                self.reads.add(step)
                return _helper("item", node.value, node.slice)
            case ast.Subscript(ast.Name("image"), ast.Constant(str() as key)):
                if key not in _IMAGE_KEYS:
                    keys = f"; it has {', '.join(_IMAGE_KEYS)}; what a client sent along is in its metadata"
                    raise self.text.refuse(node, f"image has no {key!r}{did_you_mean(key, _IMAGE_KEYS, keys)}")
                self.reads_metadata = self.reads_metadata or key == "metadata"
                return _helper("item", node.value, node.slice)
            case ast.Subscript(slice=ast.Slice(lower, upper, step)):
                container = self.visit(node.value)
                ends = [self.visit(end) if end else ast.Constant(None) for end in (lower, upper, step)]
                return _helper("item", container, ast.Call(_load("__slice"), ends, []))
        return _helper("item", self.visit(node.value), self.visit(node.slice))

    # ---- operators

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        operands = [node.left, *node.comparators]
        for operator, *sides in zip(node.ops, operands, operands[1:], strict=False):
            is_none = any(isinstance(side, ast.Constant) and side.value is None for side in sides)
            if isinstance(operator, ast.Is | ast.IsNot) and not is_none:
                raise self.text.refuse(sides[1], "'is' only goes with None; write '==' or '!='")
        names = " ".join(type(operator).__name__ for operator in node.ops)
        left, *others = [self.visit(operand) for operand in operands]
        if len(others) == 1:
            return _helper(names, left, *others)
        no_arguments = ast.arguments([], [], None, [], [], None, [])
        return _helper("chain", ast.Constant(names), left, *[ast.Lambda(no_arguments, other) for other in others])

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        name = type(node.op).__name__
        if name not in ARITHMETIC:
            raise self._unsupported(node, name)
        return _helper(name, self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Invert):
            raise self._unsupported(node, "Invert")
        return ast.UnaryOp(node.op, self.visit(node.operand))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        raise self.text.refuse(node, attribute(self.text, node))

    # ---- comprehensions

    def _comprehension(self, node: Any) -> Any:
        outside = set(self._variables)
        for clause in node.generators:
            if clause.is_async:
                raise self.text.refuse(clause.target, "'async for' is not allowed; write 'for'")
            values = self.visit(clause.iter)
            self._bind(clause.target)
            clause.iter = _helper("loop", values, ast.Constant(not isinstance(clause.target, ast.Name)))
            clause.ifs = [self.visit(condition) for condition in clause.ifs]
        if isinstance(node, ast.DictComp):
            node.key, node.value = self._key(node.key), self.visit(node.value)
        else:
            node.elt = self._key(node.elt) if isinstance(node, ast.SetComp) else self.visit(node.elt)
        self._variables = outside
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = _comprehension  # noqa: N815

    def _bind(self, node: ast.expr) -> None:
        if isinstance(node, ast.Tuple | ast.List):
            for element in node.elts:
                self._bind(element)
            return
        if not isinstance(node, ast.Name):
            what = f"a comprehension cannot put its values into {self.text.quote(node)}"
            raise self.text.refuse(node, f"{what}; write for x in ...")
        if node.id in {*_NAMES["crops"], *FUNCTIONS, *self._variables} or node.id.startswith("__"):
            what = f"a comprehension cannot use {node.id!r} for its variable"
            raise self.text.refuse(node, f"{what}; choose another name")
        self._variables.add(node.id)

    # ---- calls

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            raise self.text.refuse(node, call(self.text, node, FUNCTIONS))
        most = FUNCTIONS[name][1]
        if not 1 <= len(node.args) <= (most or len(node.args)):
            takes = {1: "one argument", 2: "one or two arguments"}.get(most or 0, "one argument or more")
            raise self.text.refuse(node, f"{name}() takes {takes}, not {len(node.args)}: {self.text.quote(node)}")
        for keyword in node.keywords:
            if keyword.arg != "default" or most is not None or len(node.args) > 1 or len(node.keywords) > 1:
                fix = "leave it out; min and max take default=, with one list"
                raise self.text.refuse(keyword.value, f"{name}() takes no {keyword.arg or '**'}= here; {fix}")
            keyword.value = self.visit(keyword.value)
        first, *others = node.args
        visit = self.visit
        if isinstance(first, ast.GeneratorExp) and name in _LAZY and (not others or name == "sum"):
            visit = self._comprehension
        return _helper(name, visit(first), *[self.visit(argument) for argument in others], keywords=node.keywords)


def _helper(name: str, *arguments: ast.expr, keywords: list[ast.keyword] | None = None) -> ast.expr:
    return ast.Call(_load(f"__{name}"), [_load("__budget"), *arguments], keywords or [])


def _load(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


# ---- parts of a rule


def _watched(node: ast.AST, names: Collection[str]) -> Iterator[ast.expr]:
    """The longest chains of subscripts on ``names``, and the calls, that need no comprehension variable."""
    inside = [*ast.iter_child_nodes(node)]
    if isinstance(node, ast.comprehension):
        inside = [node.iter, *node.ifs]
    elif isinstance(node, ast.Call):
        inside = [*node.args, *node.keywords]
        if _closed(node, names):
            yield node
            if isinstance(node.func, ast.Name) and node.func.id == "len" and all(map(_is_chain, node.args)):
                return  # the length says it shorter
    elif isinstance(node, ast.expr) and _is_chain(node) and _closed(node, names):
        yield node
        return
    for child in inside:
        yield from _watched(child, names)


def _is_chain(node: ast.expr) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name)


def _constants(node: ast.AST) -> Iterator[ast.expr]:
    """The largest parts that read nothing."""
    is_read = not isinstance(getattr(node, "ctx", None), ast.Store)
    if isinstance(node, ast.expr) and not isinstance(node, _NO_PARTS) and is_read and _closed(node, ()):
        yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from _constants(child)


def _closed(node: ast.expr, names: Collection[str]) -> bool:
    """Whether it reads nothing but ``names`` and its own comprehension variables."""
    found = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
    bound = {name.id for name in found if isinstance(name.ctx, ast.Store)}
    return {name.id for name in found} <= {*names, *FUNCTIONS, *bound}
