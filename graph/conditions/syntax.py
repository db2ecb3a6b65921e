"""The text of a rule: parsed within limits, and what to say, with the fix, about Python that a rule may not use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from classifiers.errors import SetupError
from classifiers.suggestions import did_you_mean

__all__ = [
    "MAX_DEPTH",
    "MAX_LENGTH",
    "TOO_DEEP",
    "RuleSyntaxError",
    "Text",
    "attribute",
    "call",
    "unknown_name",
    "unsupported",
]

MAX_LENGTH = 4_000
"""Characters of a rule: room for 250 class names."""

MAX_DEPTH = 60
"""Levels of nested expressions: more than a person can read, and few enough for the interpreter's stack."""

_SHOWN = 60  # characters of the rule that a message quotes
TOO_DEEP = f"the rule is nested more than {MAX_DEPTH} levels deep; split it, or put fewer operators in a row"
_UNKNOWN_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*(\\[^\\'"abfnrtvxuUN0-7\n])""")
_NOT_PYTHON = {"&&": "and", "||": "or", "<>": "!=", "===": "=="}


class RuleSyntaxError(SetupError):
    """The text is not a rule; the message says what is wrong and the fix.

    Attributes:
        column: where in ``Rule.source`` (the stripped text), in characters from 1; ``None``: no one place.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(f"{message} (column {column})" if column else message)
        self.column = column


class Text:
    """A parsed rule, and the way back from its nodes to its characters.

    Raises:
        RuleSyntaxError: it is empty, too long, too deeply nested, or not a Python expression.
    """

    def __init__(self, source: str) -> None:
        if not source:
            raise RuleSyntaxError("the rule is empty; write an expression, or leave the key out")
        if len(source) > MAX_LENGTH:
            raise RuleSyntaxError(
                f"the rule has {len(source)} characters, {MAX_LENGTH} are allowed; split it over several steps",
                MAX_LENGTH,
            )
        for position, character in enumerate(source, start=1):
            if character not in "\n\t" and not character.isprintable():
                fix = "write it as an escape in a string"
                raise RuleSyntaxError(f"the character {character!r} is not allowed; {fix}", position)
        if wrong := _UNKNOWN_ESCAPE.search(source):  # Python would take it as it is, with a warning on stderr
            message = f"{wrong[1]} is no escape in a string; write \\\\ for a backslash"
            raise RuleSyntaxError(message, wrong.start(1) + 1)
        self._before = "(" if "\n" in source else ""  # in brackets it may have several lines
        self._parsed = f"{self._before}{source}" + ("\n)" if self._before else "")
        self.tree = self._parse()

    def _parse(self) -> ast.expr:
        try:
            tree = ast.parse(self._parsed, mode="eval").body
        except SyntaxError as error:
            raise self._no_expression(error.msg, self._position(error.lineno or 1, (error.offset or 1) - 1)) from None
        except (RecursionError, MemoryError):  # MemoryError is what the parser says of its own stack
            raise RuleSyntaxError(TOO_DEEP) from None
        if self._before and tree.col_offset == 0 and not isinstance(tree, ast.Tuple | ast.GeneratorExp):
            raise self._no_expression("unmatched ')'", 1)  # the rule closes the bracket that it was put in
        level: list[ast.AST] = [tree]
        for _ in range(MAX_DEPTH):
            children = [child for node in level for child in ast.iter_child_nodes(node)]
            level = [child for child in children if not isinstance(child, ast.expr_context)]
        if level:
            raise RuleSyntaxError(TOO_DEEP)
        return tree

    def of(self, node: ast.expr) -> str:
        """The characters of a node."""
        return ast.get_source_segment(self._parsed, node) or ""

    def quote(self, node: ast.expr) -> str:
        """The characters of a node, as a message shows them."""
        text = " ".join(self.of(node).split())
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

    def refuse(self, node: ast.expr, message: str) -> RuleSyntaxError:
        """What to raise because of a node."""
        line = self._parsed.split("\n")[node.lineno - 1].encode()  # ast counts in bytes
        return RuleSyntaxError(message, self._position(node.lineno, len(line[: node.col_offset].decode())))

    def _position(self, line: int, characters: int) -> int:
        """The column in the rule."""
        before = sum(len(text) + 1 for text in self._parsed.split("\n")[: line - 1])
        end = len(self._parsed) - 3 * len(self._before)
        return max(1, min(before + characters - len(self._before) + 1, end))

    def _no_expression(self, problem: str, column: int) -> RuleSyntaxError:
        found = [f"write {right!r} for {wrong!r}" for wrong, right in _NOT_PYTHON.items() if wrong in self._parsed]
        fix = found[0] if found else "a rule is one expression, such as detection['confidence'] >= 0.5"
        return RuleSyntaxError(f"not a Python expression: {problem}; {fix}", column)


# ---- what is refused

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

_NODES = {
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

_CONSTANTS = {"true": "True", "false": "False", "null": "None", "none": "None"}


def unsupported(kind: str, quoted: str) -> str:
    """What to say of ``quoted``; ``kind`` is the name of a class in ``ast``, or of a constant's type."""
    others = "a rule has literals, subscripts, comparisons, arithmetic, comprehensions and a few functions"
    what, fix = _NODES.get(kind, (quoted, others))
    return f"{what} is not allowed; {fix}"


def attribute(text: Text, node: ast.Attribute) -> str:
    """What to say of an attribute that is not called."""
    fix = f"write {text.quote(node.value)}[{node.attr!r}]"
    if node.attr.startswith("__"):
        fix = "a rule reads values by their keys only: x['key']"
    return f"attributes are not allowed: {text.quote(node)}; {fix}"


def call(text: Text, node: ast.Call, functions: Iterable[str]) -> str:
    """What to say of a call to anything but one of ``functions``."""
    called, quoted = node.func, text.quote(node.func)
    name = called.attr if isinstance(called, ast.Attribute) else quoted
    fix = f"; only {' '.join(sorted(functions))} can be called"
    if name in _INSTEAD_OF_CALLS:
        fix = f"; {_INSTEAD_OF_CALLS[name]}"
    if not isinstance(called, ast.Attribute):
        return f"{quoted}(...) is not allowed{fix if name in _INSTEAD_OF_CALLS else did_you_mean(name, functions, fix)}"
    if name == "get" and node.args and isinstance(node.args[0], ast.Constant):
        fix = f"; write {text.quote(called.value)}[{text.quote(node.args[0])}]"
    return f"attributes are not allowed: {quoted}(...){fix}"


def unknown_name(name: str, known: Iterable[str], functions: Iterable[str]) -> str:
    """What to say of a name that is neither a variable nor a function."""
    names = sorted(known)
    owner = "detection" if "detection" in names else "context['step']"
    quotes = f"a string needs quotes: '{name}'; a key is read as {owner}['{name}']; known here: {', '.join(names)}"
    if name in _CONSTANTS:
        return f"unknown name {name!r}; write {_CONSTANTS[name]}"
    return f"unknown name {name!r}{did_you_mean(name, [*names, *functions], f'; {quotes}')}"
