"""Compiles the text of a rule to a Python function.

Every kind of node that a rule may have is handled here; all others are refused, with the fix. Control flow (``and``,
``if``, loops) stays Python, and every operation whose cost depends on the values becomes, or gets its operands from, a
call of a helper that charges the budget first. The function has no builtins, and a rule cannot contain a name that
begins with ``__``, as those of the helpers do.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Literal

from classifiers.suggestions import did_you_mean
from graph.conditions.syntax import TOO_DEEP, RuleSyntaxError, Text
from graph.conditions.values import ARITHMETIC, FUNCTIONS, HELPERS

__all__ = ["NAMES", "Compiled", "Kind", "Program"]

Kind = Literal["condition", "crops"]

Program = Callable[..., Any]
"""A compiled expression; takes the budget, ``context``, ``image`` and ``detection``."""

_GLOBALS = {"__builtins__": {}, "__slice": slice, **{f"__{name}": helper for name, helper in HELPERS.items()}}
_PARAMETERS = ("__budget", "context", "image", "detection")
NAMES: dict[Kind, frozenset[str]] = {"condition": frozenset(_PARAMETERS[1:3]), "crops": frozenset(_PARAMETERS[1:])}
_IMAGE_KEYS = ("height", "metadata", "width")
_UNCHANGED = (ast.Tuple, ast.List, ast.BoolOp, ast.IfExp, ast.Load, ast.boolop)
_LAZY = ("all", "any", "max", "min", "sum")  # they may have a comprehension as their argument

_INSTEAD_OF_CALLS = {
    "get": "write x['key'], after 'key' in x where it may be missing",
    **dict.fromkeys(("values", "items"), "write x[key] for key in x"),
    **dict.fromkeys(("lower", "upper"), "compare with each spelling: x in ('Car', 'car')"),
    **dict.fromkeys(("range", "enumerate"), "go through the list itself: for x in ..."),
    **dict.fromkeys(("str", "int", "float", "format"), "compare the values themselves"),
    "startswith": "write x[:3] == 'abc'",
    "endswith": "write x[-3:] == 'abc'",
    "sorted": "write min(...) or max(...)",
    "set": "write {x for x in ...}",
    "list": "write [x for x in ...]",
}

_INSTEAD_OF_NODES = {
    "Lambda": ("lambda", "write the expression itself, or a comprehension"),
    "NamedExpr": ("':='", "write '==' to compare, or repeat the expression"),
    "JoinedStr": ("an f-string", "compare the values themselves"),
    "Starred": ("unpacking with '*'", "write the items one by one, or join lists with '+'"),
    "GeneratorExp": ("a comprehension in round brackets", "write [... for ...], or put it into any(...) or sum(...)"),
    "BitAnd": ("'&'", "write 'and', with each comparison in full"),
    "BitOr": ("'|'", "write 'or', with each comparison in full"),
    "BitXor": ("'^'", "write '!=', or '**' for a power"),
    "Invert": ("'~'", "write 'not'"),
    "bytes": ("a string of bytes", "write it without the b"),
}
"""By the name of a class in ``ast``, or of a constant's type."""

_CONSTANTS = {"true": "True", "false": "False", "null": "None", "none": "None"}


class Compiled(ast.NodeTransformer):
    """A compiled expression.

    Attributes:
        text: the parsed text; compiling changes its tree.
        program: the function.
        reads: the steps whose results it reads.
        reads_metadata: whether its value may depend on ``image['metadata']``.

    Raises:
        RuleSyntaxError: the text is not an expression that a rule may be.
    """

    def __init__(self, kind: Kind, source: str) -> None:
        self.text = Text(source)
        self.reads: set[str] = set()
        self.reads_metadata = False
        self._names = NAMES[kind]
        self._variables: set[str] = set()  # of the comprehensions around a node
        arguments = ast.arguments([], [ast.arg(name) for name in _PARAMETERS], None, [], [], None, [])
        tree = ast.Expression(ast.Lambda(arguments, self.visit(self.text.tree)))
        try:
            code = compile(ast.fix_missing_locations(tree), "<rule>", "eval")
        except (SyntaxError, RecursionError, MemoryError):  # what the compiler raises when its own stack is full
            raise RuleSyntaxError(TOO_DEEP) from None
        self.program: Program = eval(code, dict(_GLOBALS))  # noqa: S307

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, _UNCHANGED):
            return super().generic_visit(node)
        raise self._not_allowed(node)

    def _not_allowed(self, node: Any, kind: str | None = None) -> RuleSyntaxError:
        others = "a rule has literals, subscripts, comparisons, arithmetic, comprehensions and a few functions"
        what, fix = _INSTEAD_OF_NODES.get(kind or type(node).__name__, (self.text.quote(node), others))
        return self.text.error(node, f"{what} is not allowed; {fix}")

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if not isinstance(node.value, str | int | float | None):
            raise self._not_allowed(node, type(node.value).__name__)
        return node

    def visit_Set(self, node: ast.Set) -> ast.expr:
        node.elts = [self._key(element) for element in node.elts]
        return node

    def visit_Dict(self, node: ast.Dict) -> ast.expr:
        if None in node.keys:
            raise self._not_allowed(node, "Starred")
        node.keys = [self._key(key) for key in node.keys if key is not None]
        node.values = [self.visit(value) for value in node.values]
        return node

    def _key(self, node: ast.expr) -> ast.expr:
        return self.visit(node) if isinstance(node, ast.Constant) else _helper("key", self.visit(node))

    # ---- names, subscripts, attributes

    def visit_Name(self, node: ast.Name) -> ast.expr:
        name = node.id
        if name in self._variables or name in self._names - {"context"}:
            self.reads_metadata = self.reads_metadata or name == "image"
            return node
        if name == "context":
            message = "context is only read as context['step'], with the name of a step in quotes"
        elif name == "detection":
            fix = "any(d['class_name'] == 'car' for d in context['step']['detections'])"
            message = f"detection is only known in crops, evaluated once per detection; write {fix}, or use crops"
        elif name in FUNCTIONS:
            message = f"{name} is a function; write {name}(...)"
        elif name in _CONSTANTS:
            message = f"unknown name {name!r}; write {_CONSTANTS[name]}"
        else:
            known = sorted(self._names | self._variables)
            owner = "detection" if "detection" in known else "context['step']"
            key = f"a key is read as {owner}['{name}']"
            quotes = f"; a string needs quotes: '{name}'; {key}; known here: {', '.join(known)}"
            message = f"unknown name {name!r}{did_you_mean(name, [*known, *FUNCTIONS], quotes)}"
        raise self.text.error(node, message)

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        match node.value, node.slice:
            case ast.Name("context"), ast.Constant(str() as step):
                self.reads.add(step)
                container = node.value
            case ast.Name("image"), ast.Constant(str() as name):
                if name not in _IMAGE_KEYS:
                    keys = f"; it has {', '.join(_IMAGE_KEYS)}; what a client sent along is in its metadata"
                    raise self.text.error(node, f"image has no {name!r}{did_you_mean(name, _IMAGE_KEYS, keys)}")
                self.reads_metadata = self.reads_metadata or name == "metadata"
                container = node.value
            case _:
                container = self.visit(node.value)
        key = self._slice(node.slice) if isinstance(node.slice, ast.Slice) else self.visit(node.slice)
        return _helper("item", container, key)

    def _slice(self, node: ast.Slice) -> ast.expr:
        ends = [self.visit(end) if end else ast.Constant(None) for end in (node.lower, node.upper, node.step)]
        return ast.Call(_load("__slice"), ends, [])

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        fix = f"write {self.text.quote(node.value)}[{node.attr!r}]"
        if node.attr.startswith("__"):
            fix = "a rule reads values by their keys only: x['key']"
        raise self.text.error(node, f"attributes are not allowed: {self.text.quote(node)}; {fix}")

    # ---- operators

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        left, *others = operands = [node.left, *node.comparators]
        first = node.ops[0]
        for operator, *sides in zip(node.ops, operands, others, strict=False):
            is_none = any(isinstance(side, ast.Constant) and side.value is None for side in sides)
            if isinstance(operator, ast.Is | ast.IsNot) and not is_none:
                raise self.text.error(sides[1], "'is' is for None only; write '==' or '!='")
            if isinstance(operator, ast.In | ast.NotIn) and len(node.ops) > 1:
                raise self.text.error(node, "'in' cannot be part of a chain; join two comparisons with 'and'")
        if isinstance(first, ast.In | ast.NotIn):
            found = _helper("contains", *map(self.visit, operands))
            return found if isinstance(first, ast.In) else ast.UnaryOp(ast.Not(), found)
        return ast.Compare(self._operand(left), node.ops, [self._operand(other) for other in others])

    def _operand(self, node: ast.expr) -> ast.expr:
        return self.visit(node) if isinstance(node, ast.Constant) else _helper("compared", self.visit(node))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        name = type(node.op).__name__
        if name not in ARITHMETIC:
            raise self._not_allowed(node, name)
        return _helper(name, self.visit(node.left), self.visit(node.right))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Invert):
            raise self._not_allowed(node, "Invert")
        return ast.UnaryOp(node.op, self.visit(node.operand))

    # ---- comprehensions

    def _comprehension(self, node: Any) -> Any:
        outside = set(self._variables)
        for clause in node.generators:
            if clause.is_async:
                raise self.text.error(clause.target, "'async for' is not allowed; write 'for'")
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
            raise self.text.error(node, f"a comprehension cannot assign to {self.text.quote(node)}; write for x in ...")
        if node.id in {*NAMES["crops"], *FUNCTIONS, *self._variables} or node.id.startswith("__"):
            message = f"a comprehension cannot use {node.id!r} for its variable; choose another name"
            raise self.text.error(node, message)
        self._variables.add(node.id)

    # ---- calls

    def visit_Call(self, node: ast.Call) -> ast.expr:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in FUNCTIONS:
            raise self.text.error(node, self._refused_call(node))
        most = FUNCTIONS[name][1]
        if not 1 <= len(node.args) <= (most or len(node.args)):
            takes = {1: "one argument", 2: "one or two arguments"}.get(most or 0, "one argument or more")
            raise self.text.error(node, f"{name}() takes {takes}, not {len(node.args)}: {self.text.quote(node)}")
        for keyword in node.keywords:
            if keyword.arg != "default" or most is not None or len(node.args) > 1 or len(node.keywords) > 1:
                fix = "leave it out; min and max take default=, with one list"
                raise self.text.error(keyword.value, f"{name}() takes no {keyword.arg or '**'}= here; {fix}")
            keyword.value = self.visit(keyword.value)
        first, *others = node.args
        visit = self.visit
        if isinstance(first, ast.GeneratorExp) and name in _LAZY and (not others or name == "sum"):
            visit = self._comprehension
        return _helper(name, visit(first), *[self.visit(argument) for argument in others], keywords=node.keywords)

    def _refused_call(self, node: ast.Call) -> str:
        called, quoted = node.func, self.text.quote(node.func)
        name = called.attr if isinstance(called, ast.Attribute) else quoted
        fix = "; " + _INSTEAD_OF_CALLS.get(name, f"only {' '.join(FUNCTIONS)} can be called")
        if not isinstance(called, ast.Attribute):
            hint = fix if name in _INSTEAD_OF_CALLS else did_you_mean(name, FUNCTIONS, fix)
            return f"{quoted}(...) is not allowed{hint}"
        if name == "get" and node.args and isinstance(node.args[0], ast.Constant):
            fix = f"; write {self.text.quote(called.value)}[{self.text.quote(node.args[0])}]"
        return f"attributes are not allowed: {quoted}(...){fix}"


def _helper(name: str, *arguments: ast.expr, keywords: list[ast.keyword] | None = None) -> ast.expr:
    return ast.Call(_load(f"__{name}"), [_load("__budget"), *arguments], keywords or [])


def _load(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())
