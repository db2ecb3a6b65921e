"""From the checked text of a rule to closures, one for each node. A node that has no method here cannot run."""

from __future__ import annotations

import ast
import difflib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from graph import _rule_values as values
from graph._rule_budget import Run
from graph._rule_explained import watched
from graph._rule_functions import FUNCTIONS, paid
from graph._rule_syntax import Node, Refused, Text, attribute, call, operator_fix, parse, unknown_name, unsupported

__all__ = ["IMAGE_KEYS", "CompiledRule", "Kind", "Program", "compile_text"]

Kind = Literal["condition", "crops"]
Code = Callable[[Run], Any]

IMAGE_KEYS = ("height", "metadata", "width")

MAX_DEPTH = 60
"""Levels of nested expressions: more than a person can read. Each takes up to six Python frames to compile and two to
run, of the interpreter's 1,000."""


@dataclass(frozen=True, slots=True)
class Program:
    """A compiled expression."""

    code: Code
    cost: int  # operations that every evaluation pays, loops not counted
    variables: int

    def __call__(self, run: Run) -> Any:
        run.variables = [None] * self.variables
        run.spend(self.cost)
        return self.code(run)


@dataclass(frozen=True, slots=True)
class CompiledRule:
    program: Program
    reads: frozenset[str]
    reads_metadata: bool
    watched: tuple[tuple[str, Program], ...]
    """What ``explain`` shows: the text and the program of each name or subscript chain, and of each call."""


def compile_text(kind: Kind, source: str) -> CompiledRule:
    """Compile a rule.

    Raises:
        Refused: the text is not a rule.
    """
    text = parse(source)
    compiler = _Compiler(kind, text)
    program = compiler.program(text.tree)
    shown = {text.of(node): _Compiler(kind, text).program(node) for node in watched(text.tree, compiler.names)}
    return CompiledRule(program, frozenset(compiler.reads), compiler.reads_metadata, tuple(shown.items()))


class _Compiler:
    def __init__(self, kind: Kind, text: Text) -> None:
        self.names = frozenset({"context", "detection", "image"} if kind == "crops" else {"context", "image"})
        self.reads: set[str] = set()
        self.reads_metadata = False
        self._text = text
        self._scope: dict[str, int] = {}  # comprehension variables in reach, and their places in Run.variables
        self._variables = 0
        self._depth = 0
        self._size = 0  # closures made so far

    def program(self, node: ast.expr) -> Program:
        code = self._compile(node)
        return Program(code, self._size, self._variables)

    def _refuse(self, node: Node, message: str) -> Refused:
        return self._text.refuse(node, message)

    def _compile(self, node: ast.expr) -> Code:
        with self._deeper(node):
            return self._closure(node)

    @contextmanager
    def _deeper(self, node: ast.expr) -> Iterator[None]:
        if self._depth >= MAX_DEPTH:
            raise self._refuse(
                node, f"the rule is nested more than {MAX_DEPTH} levels deep; split it, or put fewer operators in a row"
            )
        self._depth += 1
        self._size += 1
        yield
        self._depth -= 1

    def _closure(self, node: ast.expr) -> Code:
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Tuple() | ast.List() | ast.Set():
                return self._display(node)
            case ast.Dict():
                return self._dict(node)
            case ast.Name():
                return self._name(node)
            case ast.Subscript():
                return self._subscript(node)
            case ast.Compare():
                return self._compare(node)
            case ast.BoolOp():
                return self._logic(node)
            case ast.BinOp():
                return self._arithmetic(node)
            case ast.UnaryOp():
                return self._unary(node)
            case ast.IfExp():
                return self._choice(node)
            case ast.ListComp():
                return self._built(values.make_list, self._loop(node.generators, node.elt))
            case ast.SetComp():
                return self._built(values.make_set, self._loop(node.generators, node.elt))
            case ast.DictComp():
                return self._built(values.make_dict, self._loop(node.generators, node.key, node.value))
            case ast.Call():
                return self._call(node)
            case ast.Attribute():
                raise self._refuse(node, attribute(self._text, node))
            case _:
                raise self._refuse(node, unsupported(type(node).__name__))

    # ---- literals

    def _constant(self, node: ast.Constant) -> Code:
        value = node.value
        if type(value) not in (str, int, float, bool, type(None)):
            raise self._refuse(node, unsupported(type(value).__name__))
        largest = values.MAX_NUMBER if isinstance(value, int) else sys.float_info.max
        if isinstance(value, int | float) and abs(value) > largest:
            raise self._refuse(node, "the number is too large; whole numbers go up to 2**64, others up to 1.8e308")
        return lambda _run: value

    def _display(self, node: ast.Tuple | ast.List | ast.Set) -> Code:
        make = {ast.Tuple: tuple, ast.List: list, ast.Set: set}[type(node)]
        codes = [self._compile(element) for element in node.elts]
        constants = [element.value for element in node.elts if isinstance(element, ast.Constant)]
        if len(constants) == len(codes):
            made = make(constants)  # once: no rule can change it
            return lambda _run: made
        if make is set:
            return lambda run: values.make_set(run, [code(run) for code in codes])
        return lambda run: make([code(run) for code in codes])

    def _dict(self, node: ast.Dict) -> Code:
        pairs = []
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                raise self._refuse(value, unsupported("Starred"))
            pairs.append((self._compile(key), self._compile(value)))
        return lambda run: values.make_dict(run, [(key(run), value(run)) for key, value in pairs])

    # ---- names and subscripts

    def _spelt(self, node: ast.Name | ast.keyword, name: str) -> str:
        # Python reads a name in other letters as the plain one (NFKC); what looks different has to be different.
        if not (name.isascii() and self._text.of(node).startswith(name)):
            raise self._refuse(node, f"the name {name!r} is not allowed as it is written; use the letters a-z")
        return name

    def _name(self, node: ast.Name) -> Code:
        name = self._spelt(node, node.id)
        if name in self._scope:
            place = self._scope[name]
            return lambda run: run.variables[place]
        if name == "context":
            raise self._refuse(node, "context is only read as context['step'], with the name of a step in quotes")
        if name == "image":
            self.reads_metadata = True
            return lambda run: run.image
        if name in self.names:
            return lambda run: run.detection
        if name == "detection":
            fix = (
                "write any(d['class_name'] == 'car' for d in context['step']['detections']), or move the rule to crops"
            )
            raise self._refuse(node, f"detection is only known in crops, which is decided for each detection; {fix}")
        if name in FUNCTIONS:
            raise self._refuse(node, f"{name} is a function; write {name}(...)")
        raise self._refuse(node, unknown_name(name, self.names | set(self._scope), FUNCTIONS))

    def _subscript(self, node: ast.Subscript) -> Code:
        key = node.slice
        literal = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
        if isinstance(node.value, ast.Name) and literal is not None:
            name = self._spelt(node.value, node.value.id)
            if name == "context":
                return self._step(literal)
            if name == "image":
                return self._image(node, literal)
        container = self._compile(node.value)
        if isinstance(key, ast.Slice):
            start, stop, step = (self._compile(part) if part else _nothing for part in (key.lower, key.upper, key.step))
            return lambda run: values.cut(run, container(run), start(run), stop(run), step(run))
        if literal is not None:
            return lambda run: values.item(run, container(run), literal)
        index = self._compile(key)
        return lambda run: values.item(run, container(run), index(run))

    def _step(self, name: str) -> Code:
        self.reads.add(name)

        def result(run: Run) -> Any:
            try:
                return run.context[name]
            except KeyError:
                raise values.missing(name, run.context) from None

        return result

    def _image(self, node: ast.Subscript, key: str) -> Code:
        if key not in IMAGE_KEYS:
            near = difflib.get_close_matches(key, IMAGE_KEYS, n=1)
            keys = f"it has {', '.join(IMAGE_KEYS)}; what a client sent along is in its metadata"
            raise self._refuse(node, f"image has no {key!r}; {f'did you mean {near[0]!r}?' if near else keys}")
        self.reads_metadata = self.reads_metadata or key == "metadata"
        return lambda run: values.item(run, run.image, key)

    # ---- operators

    def _compare(self, node: ast.Compare) -> Code:
        operands = [node.left, *node.comparators]
        for operator, left, right in zip(node.ops, operands, operands[1:], strict=False):
            none = any(isinstance(side, ast.Constant) and side.value is None for side in (left, right))
            if isinstance(operator, ast.Is | ast.IsNot) and not none:
                raise self._refuse(right, "'is' only goes with None; write '==' or '!='")
        first, *others = [self._compile(operand) for operand in operands]
        steps = [
            (values.COMPARISONS[type(operator).__name__], code) for operator, code in zip(node.ops, others, strict=True)
        ]
        if len(steps) == 1:
            compare, second = steps[0]
            return lambda run: compare(run, first(run), second(run))

        def chain(run: Run) -> Any:
            left, held = first(run), True
            for compare, code in steps:
                right = code(run)
                held = compare(run, left, right)
                if not held:
                    break
                left = right
            return held

        return chain

    def _logic(self, node: ast.BoolOp) -> Code:
        if isinstance(node.op, ast.And):
            return self._every(node.values)
        *firsts, last = [self._compile(value) for value in node.values]

        def either(run: Run) -> Any:
            for code in firsts:
                value = code(run)
                if value:
                    return value
            return last(run)

        return either

    def _every(self, nodes: Sequence[ast.expr]) -> Code:
        if not nodes:
            return lambda _run: True
        *firsts, last = [self._compile(node) for node in nodes]
        if not firsts:
            return last

        def every(run: Run) -> Any:
            for code in firsts:
                value = code(run)
                if not value:
                    return value
            return last(run)

        return every

    def _arithmetic(self, node: ast.BinOp) -> Code:
        compute = values.ARITHMETIC.get(type(node.op).__name__)
        if compute is None:
            raise self._refuse(node, operator_fix(type(node.op).__name__))
        left, right = self._compile(node.left), self._compile(node.right)
        return lambda run: compute(run, left(run), right(run))

    def _unary(self, node: ast.UnaryOp) -> Code:
        if isinstance(node.op, ast.Invert):
            raise self._refuse(node, operator_fix("Invert"))
        operand = self._compile(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda run: not operand(run)
        compute = values.negative if isinstance(node.op, ast.USub) else values.positive
        return lambda run: compute(operand(run))

    def _choice(self, node: ast.IfExp) -> Code:
        test, body, orelse = self._compile(node.test), self._compile(node.body), self._compile(node.orelse)
        return lambda run: body(run) if test(run) else orelse(run)

    # ---- comprehensions

    def _built(self, make: Callable[[Run, Iterator[Any]], Any], loop: Code) -> Code:
        return lambda run: make(run, loop(run))

    def _loop(self, clauses: Sequence[ast.comprehension], *parts: ast.expr) -> Callable[[Run], Iterator[Any]]:
        outside = dict(self._scope)
        loop = self._clause(clauses, self._compile(clauses[0].iter), parts)
        self._scope = outside
        return loop

    def _clause(
        self, clauses: Sequence[ast.comprehension], source: Code, parts: Sequence[ast.expr]
    ) -> Callable[[Run], Iterator[Any]]:
        """One ``for`` with its ``if``. A turn costs the closures that it may call; inner loops charge their own."""
        clause, *inner = clauses
        if clause.is_async:
            raise self._refuse(clause.target, unsupported("Await"))
        before = self._size
        bind = self._target(clause.target)
        holds = self._every(clause.ifs)
        if inner:
            iterated = self._compile(inner[0].iter)
            cost = self._size - before
            with self._deeper(inner[0].target):
                turn = self._clause(inner, iterated, parts)

            def outer_loop(run: Run) -> Iterator[Any]:
                for value in values.items(run, source(run)):
                    run.spend(cost)
                    bind(run, value)
                    if holds(run):
                        yield from turn(run)

            return outer_loop

        codes = [self._compile(part) for part in parts]
        cost = self._size - before
        part = codes[0] if len(codes) == 1 else lambda run: [code(run) for code in codes]

        def loop(run: Run) -> Iterator[Any]:
            for value in values.items(run, source(run)):
                run.spend(cost)
                bind(run, value)
                if holds(run):
                    yield part(run)

        return loop

    def _target(self, node: ast.expr) -> Callable[[Run, Any], None]:
        self._size += 1
        if isinstance(node, ast.Name):
            name = self._spelt(node, node.id)
            if name in self.names | set(FUNCTIONS) | set(self._scope) | {"detection"} or name.startswith("__"):
                raise self._refuse(node, f"a comprehension cannot use {name!r} for its variable; choose another name")
            place = self._scope[name] = self._variables
            self._variables += 1

            def bind(run: Run, value: Any) -> None:
                run.variables[place] = value

            return bind
        if isinstance(node, ast.Tuple | ast.List):
            with self._deeper(node):
                binds = [self._target(element) for element in node.elts]

            def bind_all(run: Run, value: Any) -> None:
                for bind, part in zip(binds, values.unpack(run, value, len(binds)), strict=True):
                    bind(run, part)

            return bind_all
        raise self._refuse(
            node, f"a comprehension cannot put its values into {self._text.quote(node)}; write for x in ..."
        )

    # ---- calls

    def _call(self, node: ast.Call) -> Code:
        if not isinstance(node.func, ast.Name) or self._spelt(node.func, node.func.id) not in FUNCTIONS:
            raise self._refuse(node, call(self._text, node, FUNCTIONS))
        name = node.func.id
        function = FUNCTIONS[name]
        if not 1 <= len(node.args) <= function.most:
            most = {1: "one argument", 2: "one or two arguments"}.get(function.most, "one argument or more")
            raise self._refuse(node, f"{name}() takes {most}, not {len(node.args)}: {self._text.quote(node)}")
        if name in ("min", "max") and len(node.args) > 1 and not node.keywords:
            compared = [self._compile(argument) for argument in node.args]
            return lambda run: function.code(run, [code(run) for code in compared])
        first, *others = [*node.args, *self._default(node, name)]
        found = self._iterated(first) if function.iterates else self._compile(first)
        rest = [self._compile(argument) for argument in others]
        return lambda run: function.code(run, found(run), *[code(run) for code in rest])

    def _iterated(self, node: ast.expr) -> Code:
        if isinstance(node, ast.GeneratorExp):
            return self._loop(node.generators, node.elt)
        code = self._compile(node)
        return lambda run: paid(run, code(run))

    def _default(self, node: ast.Call, name: str) -> list[ast.expr]:
        for keyword in node.keywords:
            if keyword.arg is None:
                raise self._refuse(keyword.value, unsupported("Starred"))
            self._spelt(keyword, keyword.arg)
            if keyword.arg != "default" or name not in ("min", "max") or len(node.args) > 1 or len(node.keywords) > 1:
                fix = "leave it out; min and max take default=, with one list"
                raise self._refuse(keyword.value, f"{name}() takes no {keyword.arg}= here; {fix}")
        return [keyword.value for keyword in node.keywords]


def _nothing(_run: Run) -> None:
    return None
