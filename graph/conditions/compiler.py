"""Compiles the checked text of a rule to a Python function.

Every kind of node that a rule may have is handled here; all others are refused. The function is compiled from a new
tree: control flow (``and``, ``if``, loops) stays Python, and every operation whose cost depends on the values becomes
a call of a helper that charges the budget first. The function has no builtins, and a rule cannot contain a name that
begins with ``__``, as those of the helpers do.
"""

from __future__ import annotations

import ast
import difflib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from graph.conditions.budget import Budget, Failure
from graph.conditions.parts import constants, watched
from graph.conditions.syntax import Node, Refused, Text, attribute, call, parse, unknown_name, unsupported
from graph.conditions.values import ARITHMETIC, FUNCTIONS, HELPERS, MAX_NUMBER, Shape

__all__ = ["FAILURES", "IMAGE_KEYS", "CompiledRule", "Kind", "Program", "compile_text", "describe", "programs_shown"]

Kind = Literal["condition", "crops"]

IMAGE_KEYS = ("height", "metadata", "width")

MAX_DEPTH = 60
"""Levels of nested expressions: more than a person can read, and few enough for the interpreter's stack."""

FAILURES = (Failure, ArithmeticError, LookupError, RecursionError, TypeError, ValueError)
"""What helpers and Python's operators raise on plain values."""

_GLOBALS: dict[str, Any] = {"__builtins__": {}, **{f"__{name}": helper for name, helper in HELPERS.items()}}
_PARAMETERS = ("__budget", "context", "image", "detection")


def describe(error: Exception) -> str:
    """One of ``FAILURES`` in words."""
    return str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression."""

    function: Callable[..., Any]
    cost: int  # operations that every evaluation pays, loops not counted

    def __call__(
        self, budget: Budget, context: Mapping[str, Any], image: dict[str, Any], detection: dict[str, Any] | None
    ) -> Any:
        budget.spend(self.cost)
        return self.function(budget, context, image, detection)


@dataclass(frozen=True, slots=True)
class CompiledRule:
    program: Program
    reads: frozenset[str]
    reads_metadata: bool


def compile_text(kind: Kind, source: str) -> CompiledRule:
    """Compile a rule, and evaluate its constant parts once.

    Raises:
        Refused: the text is not a rule, or a constant part has no value within a step's budget.
    """
    text = parse(source)
    compiler = _Compiler(kind, text)
    program = compiler.program(text.tree)
    budget = Budget()
    for part in constants(text.tree):
        try:
            _Compiler(kind, text).program(part)(budget, {}, {}, None)
        except FAILURES as error:
            raise text.refuse(part, f"{describe(error)} in the constant {text.quote(part)}") from None
    return CompiledRule(program, frozenset(compiler.reads), compiler.reads_metadata)


@functools.lru_cache(maxsize=256)  # asked for every detection
def programs_shown(kind: Kind, source: str) -> tuple[tuple[str, Program], ...]:
    """What explains a rule: the text and the program of each name or subscript chain, and of each call."""
    text = parse(source)
    names = _Compiler(kind, text).names
    return tuple({text.of(node): _Compiler(kind, text).program(node) for node in watched(text.tree, names)}.items())


class _Compiler:
    def __init__(self, kind: Kind, text: Text) -> None:
        self.names = frozenset({"context", "detection", "image"} if kind == "crops" else {"context", "image"})
        self.reads: set[str] = set()
        self.reads_metadata = False
        self._text = text
        self._scope: set[str] = set()  # comprehension variables in reach
        self._depth = 0
        self._globals = dict(_GLOBALS)
        self._cost = 1  # one for the evaluation, and one for each call of a helper

    def program(self, node: ast.expr) -> Program:
        parameters = [ast.arg(name) for name in _PARAMETERS]
        body = self._compile(node)
        function = ast.Lambda(ast.arguments([], parameters, None, [], [], None, []), body)
        tree = ast.fix_missing_locations(ast.Expression(function))
        try:
            return Program(eval(compile(tree, "<rule>", "eval"), self._globals), self._cost)  # noqa: S307
        except (SyntaxError, RecursionError, MemoryError):  # whatever the compiler says of its own stack
            raise Refused("the rule is nested too deeply; split it with 'and', or over several steps") from None

    def _refuse(self, node: Node, message: str) -> Refused:
        return self._text.refuse(node, message)

    def _call_helper(self, name: str, *arguments: ast.expr) -> ast.expr:
        self._cost += 1
        return ast.Call(_load(f"__{name}"), [_load("__budget"), *arguments], [])

    def _compile(self, node: ast.expr) -> ast.expr:
        with self._deeper(node):
            return self._checked(node)

    @contextmanager
    def _deeper(self, node: ast.expr) -> Iterator[None]:
        self._check_depth(node, 1)
        self._depth += 1
        yield
        self._depth -= 1

    def _check_depth(self, node: ast.expr, levels: int) -> None:
        if self._depth + levels > MAX_DEPTH:
            raise self._refuse(
                node, f"the rule is nested more than {MAX_DEPTH} levels deep; split it, or put fewer operators in a row"
            )

    def _checked(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Tuple() | ast.List():
                return type(node)([self._compile(element) for element in node.elts], ast.Load())
            case ast.Set():
                return self._set(node)
            case ast.Dict():
                return self._dict(node)
            case ast.Name():
                return self._name(node)
            case ast.Subscript():
                return self._subscript(node)
            case ast.Compare():
                return self._compare(node)
            case ast.BoolOp():
                return ast.BoolOp(node.op, [self._compile(value) for value in node.values])
            case ast.BinOp():
                return self._arithmetic(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.IfExp():
                return ast.IfExp(*[self._compile(part) for part in (node.test, node.body, node.orelse)])
            case ast.ListComp():
                return self._call_helper("make_list", self._loop(node.generators, node.elt))
            case ast.SetComp():
                return self._call_helper("make_set", self._loop(node.generators, node.elt))
            case ast.DictComp():
                return self._call_helper("make_dict", self._loop(node.generators, node.key, node.value))
            case ast.Call():
                return self._call(node)
            case ast.Attribute():
                raise self._refuse(node, attribute(self._text, node))
            case _:
                raise self._refuse(node, unsupported(type(node).__name__))

    # ---- literals

    def _constant(self, node: ast.Constant) -> ast.expr:
        value = node.value
        if type(value) not in (str, int, float, bool, type(None)):
            raise self._refuse(node, unsupported(type(value).__name__))
        largest = MAX_NUMBER if isinstance(value, int) else sys.float_info.max
        if isinstance(value, int | float) and abs(value) > largest:
            raise self._refuse(node, "the number is too large; whole numbers go up to 2**64, others up to 1.8e308")
        return node

    def _set(self, node: ast.Set) -> ast.expr:
        members = [self._compile(element) for element in node.elts]
        if not all(isinstance(element, ast.Constant) for element in node.elts):
            return self._call_helper("make_set", ast.Tuple(members, ast.Load()))
        name = f"__set{node.lineno}_{node.col_offset}"  # made once: no rule can change it
        self._globals[name] = ast.literal_eval(node)
        return _load(name)

    def _dict(self, node: ast.Dict) -> ast.expr:
        pairs: list[ast.expr] = []
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise self._refuse(value, unsupported("Starred"))
            pairs.append(ast.Tuple([self._compile(key), self._compile(value)], ast.Load()))
        return self._call_helper("make_dict", ast.Tuple(pairs, ast.Load()))

    # ---- names and subscripts

    def _spelt(self, node: ast.Name | ast.keyword, name: str) -> str:
        # Python reads a name in other letters as the plain one (NFKC); what looks different has to be different.
        if not (name.isascii() and self._text.of(node).startswith(name)):
            raise self._refuse(node, f"the name {name!r} is not allowed as it is written; use the letters a-z")
        return name

    def _name(self, node: ast.Name) -> ast.expr:
        name = self._spelt(node, node.id)
        if name in self._scope:
            return _load(name)
        if name == "context":
            raise self._refuse(node, "context is only read as context['step'], with the name of a step in quotes")
        if name in self.names:
            self.reads_metadata = self.reads_metadata or name == "image"
            return _load(name)
        if name == "detection":
            fix = (
                "write any(d['class_name'] == 'car' for d in context['step']['detections']), or move the rule to crops"
            )
            raise self._refuse(node, f"detection is only known in crops, which is decided for each detection; {fix}")
        if name in FUNCTIONS:
            raise self._refuse(node, f"{name} is a function; write {name}(...)")
        raise self._refuse(node, unknown_name(name, self.names | self._scope, FUNCTIONS))

    def _subscript(self, node: ast.Subscript) -> ast.expr:
        key = node.slice
        literal = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
        if isinstance(node.value, ast.Name) and literal is not None:
            name = self._spelt(node.value, node.value.id)
            if name == "context":
                self.reads.add(literal)
                return self._call_helper("step_result", _load(name), key)
            if name == "image":
                self._check_image_key(node, literal)
                return self._call_helper("item", _load(name), key)
        container = self._compile(node.value)
        if isinstance(key, ast.Slice):
            ends = [self._compile(part) if part else ast.Constant(None) for part in (key.lower, key.upper, key.step)]
            return self._call_helper("cut", container, *ends)
        return self._call_helper("item", container, self._compile(key))

    def _check_image_key(self, node: ast.Subscript, key: str) -> None:
        if key not in IMAGE_KEYS:
            near = difflib.get_close_matches(key, IMAGE_KEYS, n=1)
            keys = f"it has {', '.join(IMAGE_KEYS)}; what a client sent along is in its metadata"
            raise self._refuse(node, f"image has no {key!r}; {f'did you mean {near[0]!r}?' if near else keys}")
        self.reads_metadata = self.reads_metadata or key == "metadata"

    # ---- operators

    def _compare(self, node: ast.Compare) -> ast.expr:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            none = any(isinstance(side, ast.Constant) and side.value is None for side in (left, right))
            if isinstance(operator, ast.Is | ast.IsNot) and not none:
                raise self._refuse(right, "'is' only goes with None; write '==' or '!='")
        names = tuple(type(operator).__name__ for operator in node.ops)
        left, *others = [self._compile(operand) for operand in operands]
        if len(names) == 1:
            return self._call_helper(names[0], left, *others)
        no_arguments = ast.arguments([], [], None, [], [], None, [])
        self._cost += 2 * len(others)
        return self._call_helper("chain", _literal(names), left, *[ast.Lambda(no_arguments, o) for o in others])

    def _arithmetic(self, node: ast.BinOp) -> ast.expr:
        operator = type(node.op).__name__
        if operator not in ARITHMETIC:
            raise self._refuse(node, unsupported(operator))
        return self._call_helper(operator, self._compile(node.left), self._compile(node.right))

    def _unary(self, node: ast.UnaryOp) -> ast.expr:
        if isinstance(node.op, ast.Invert):
            raise self._refuse(node, unsupported("Invert"))
        operand = self._compile(node.operand)
        if isinstance(node.op, ast.Not):
            return ast.UnaryOp(node.op, operand)
        return self._call_helper("negative" if isinstance(node.op, ast.USub) else "positive", operand)

    # ---- comprehensions

    def _loop(self, clauses: Sequence[ast.comprehension], *parts: ast.expr) -> ast.expr:
        """A generator. A turn of a ``for`` costs what it may call; inner loops charge their own turns."""
        outside = set(self._scope)
        made: list[ast.comprehension] = []
        source = self._compile(clauses[0].iter)
        for level, clause in enumerate(clauses, 1):
            self._check_depth(clause.target, level)
            inner = clauses[level] if level < len(clauses) else None
            if clause.is_async:
                raise self._refuse(clause.target, unsupported("Await"))
            before = self._cost
            target, shape = self._target(clause.target)
            ifs = [self._compile(condition) for condition in clause.ifs]
            following = [self._compile(part) for part in ([inner.iter] if inner else parts)]
            cost = 1 + self._cost - before
            turns = self._call_helper("loop", source, ast.Constant(cost), _literal(shape))
            made.append(ast.comprehension(target, turns, ifs, 0))
            source = following[0]
        self._scope = outside
        return ast.GeneratorExp(following[0] if len(parts) == 1 else ast.Tuple(following, ast.Load()), made)

    def _target(self, node: ast.expr) -> tuple[ast.expr, Shape | None]:
        if isinstance(node, ast.Name):
            name = self._spelt(node, node.id)
            if name in self.names | set(FUNCTIONS) | self._scope | {"detection"} or name.startswith("__"):
                raise self._refuse(node, f"a comprehension cannot use {name!r} for its variable; choose another name")
            self._scope.add(name)
            return ast.Name(name, ast.Store()), None
        if isinstance(node, ast.Tuple | ast.List):
            with self._deeper(node):
                found = [self._target(element) for element in node.elts]
            return ast.Tuple([target for target, _ in found], ast.Store()), tuple(shape for _, shape in found)
        raise self._refuse(
            node, f"a comprehension cannot put its values into {self._text.quote(node)}; write for x in ..."
        )

    # ---- calls

    def _call(self, node: ast.Call) -> ast.expr:
        if not isinstance(node.func, ast.Name) or self._spelt(node.func, node.func.id) not in FUNCTIONS:
            raise self._refuse(node, call(self._text, node, FUNCTIONS))
        name = node.func.id
        function = FUNCTIONS[name]
        if not 1 <= len(node.args) <= function.most:
            most = {1: "one argument", 2: "one or two arguments"}.get(function.most, "one argument or more")
            raise self._refuse(node, f"{name}() takes {most}, not {len(node.args)}: {self._text.quote(node)}")
        if name in ("min", "max") and len(node.args) > 1 and not node.keywords:
            compared = [self._compile(argument) for argument in node.args]
            return self._call_helper(name, ast.Tuple(compared, ast.Load()))
        first, *others = [*node.args, *self._default(node, name)]
        found = self._iterated(first) if function.iterates else self._compile(first)
        return self._call_helper(name, found, *[self._compile(argument) for argument in others])

    def _iterated(self, node: ast.expr) -> ast.expr:
        if isinstance(node, ast.GeneratorExp):
            return self._loop(node.generators, node.elt)
        return self._call_helper("paid", self._compile(node))

    def _default(self, node: ast.Call, name: str) -> list[ast.expr]:
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._refuse(keyword.value, unsupported("Starred"))
            self._spelt(keyword, keyword.arg)
            if keyword.arg != "default" or name not in ("min", "max") or len(node.args) > 1 or len(node.keywords) > 1:
                fix = "leave it out; min and max take default=, with one list"
                raise self._refuse(keyword.value, f"{name}() takes no {keyword.arg}= here; {fix}")
        return [keyword.value for keyword in node.keywords]


def _load(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _literal(value: object) -> ast.expr:
    return ast.parse(repr(value), mode="eval").body
