"""The text of a rule: parsed within limits, and what to say, with the fix, about Python that a rule may not use."""

from __future__ import annotations

import ast
import difflib
import itertools
import re
from collections.abc import Iterable

__all__ = [
    "MAX_LENGTH",
    "Node",
    "Refused",
    "Text",
    "attribute",
    "call",
    "parse",
    "unknown_name",
    "unsupported",
]

MAX_LENGTH = 4_000
"""Characters of a rule: room for 250 class names, too few for a parser's stack or a tree of closures to run away."""

_SHOWN = 60  # characters of the rule that a message quotes


Node = ast.expr | ast.keyword


class Refused(Exception):
    """The text is no rule; ``str(refused)`` says what and the fix, ``column`` where in the text, from 1."""

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(message)
        self.column = column


class Text:
    """A parsed rule and the way back from its nodes to its characters."""

    def __init__(self, tree: ast.expr, parsed: str, shift: int) -> None:
        self.tree = tree
        self._bytes = parsed.encode()  # ast counts in bytes
        self._shift = shift  # characters that were put before the rule to parse it
        self._starts = list(itertools.accumulate((len(line) + 1 for line in self._bytes.split(b"\n")), initial=0))

    def of(self, node: Node) -> str:
        start = self._starts[node.lineno - 1] + node.col_offset
        return self._bytes[start : self._starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)].decode()

    def quote(self, node: ast.expr) -> str:
        text = " ".join(self.of(node).split())
        return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."

    def refuse(self, node: Node, message: str) -> Refused:
        before = self._bytes[: self._starts[node.lineno - 1] + node.col_offset].decode()
        return Refused(message, len(before) - self._shift + 1)


# ---- parsing

_UNKNOWN_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*(\\[^\\'"abfnrtvxuUN0-7\n])""")

_NOT_PYTHON = {"&&": "and", "||": "or", "<>": "!=", "===": "=="}


def parse(source: str) -> Text:
    """Parse a rule, which may go over several lines.

    Raises:
        Refused: it is empty, too long, too deeply nested, or not a Python expression.
    """
    if not source:
        raise Refused("the rule is empty; write an expression, or leave the key out")
    if len(source) > MAX_LENGTH:
        raise Refused(
            f"the rule has {len(source)} characters, {MAX_LENGTH} are allowed; split it over several steps", MAX_LENGTH
        )
    for position, character in enumerate(source, start=1):
        if character not in "\n\t" and not character.isprintable():
            raise Refused(f"the character {character!r} is not allowed; write it as an escape in a string", position)
    if wrong := _UNKNOWN_ESCAPE.search(source):  # Python would take it as it is, with a warning on stderr
        raise Refused(f"{wrong[1]} is no escape in a string; write \\\\ for a backslash", wrong.start(1) + 1)
    if "\n" not in source:
        text = Text(_parse(source), source, 0)
    else:
        # In brackets it may go over lines; what parses in both kinds of them does not close them itself.
        _parse(f"[{source}\n]", shift=1)
        bracketed = f"({source}\n)"
        text = Text(_parse(bracketed, shift=1), bracketed, 1)
    if isinstance(text.tree, ast.Tuple):
        raise Refused("a rule with commas always holds; join the parts with 'and' or 'or'", 1)
    return text


def _parse(text: str, shift: int = 0) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        lines = text.split("\n")
        before = sum(len(line) + 1 for line in lines[: (error.lineno or 1) - 1])
        column = max(1, min(before + (error.offset or 1) - shift, len(text) - shift))
        raise Refused(f"not a Python expression: {error.msg}{_hint(text)}", column) from None
    except (RecursionError, MemoryError):  # MemoryError is what the parser says of its own stack
        raise Refused("the rule is nested too deeply; split it with 'and', or over several steps") from None


def _hint(text: str) -> str:
    for wrong, right in _NOT_PYTHON.items():
        if wrong in text:
            return f"; write {right!r} for {wrong!r}"
    return "; a rule is one expression, such as detection['confidence'] >= 0.5"


# ---- what is refused

_METHODS = {
    "get": "write x['key'], after 'key' in x where it may be missing",
    "keys": "leave it out: 'key' in x, for key in x",
    "values": "write x[key] for key in x",
    "items": "write x[key] for key in x",
    "lower": "compare with each spelling: x in ('Car', 'car')",
    "upper": "compare with each spelling: x in ('Car', 'CAR')",
    "casefold": "compare with each spelling: x in ('Car', 'car')",
    "strip": "compare the text as it is",
    "startswith": "write x[:3] == 'abc'",
    "endswith": "write x[-3:] == 'abc'",
    "count": "write sum(y == 'car' for y in x)",
    "index": "write 'car' in x",
    "find": "write 'car' in x",
    "format": "compare the values themselves",
    "union": "write any(... for y in a) or any(... for y in b)",
    "intersection": "write any(y in b for y in a)",
    "issubset": "write all(y in b for y in a)",
}

_CALLS = {
    "range": "go through the list itself: for x in ...",
    "enumerate": "go through the list itself: for x in ...",
    "sorted": "write min(...) or max(...)",
    "set": "write {x for x in ...}",
    "list": "write [x for x in ...]",
    "filter": "write [x for x in ... if ...]",
    "map": "write [... for x in ...]",
    "int": "write round(x)",
    "bool": "leave it out",
    "str": "compare the value itself",
    "float": "compare the value itself",
    "isinstance": "compare the value itself",
    "type": "compare the value itself",
}

_NODES = {
    "Lambda": ("lambda", "write the expression itself, or a comprehension"),
    "NamedExpr": ("':='", "write '==' to compare, or repeat the expression"),
    "JoinedStr": ("an f-string", "compare the values themselves"),
    "TemplateStr": ("a template text", "compare the values themselves"),
    "Starred": ("unpacking with '*'", "write the items one by one, or join lists with '+'"),
    "Await": ("'await'", "write the value itself"),
    "Yield": ("'yield'", "write the value itself"),
    "YieldFrom": ("'yield from'", "write the value itself"),
    "Slice": ("a slice here", "write one slice, such as x[1:3]"),
    "GeneratorExp": (
        "a comprehension in round brackets",
        "write [... for ...], or put it into any(...), all(...), sum(...)",
    ),
    "BitAnd": ("'&'", "write 'and', with each comparison in full"),
    "BitOr": ("'|'", "write 'or', with each comparison in full"),
    "BitXor": ("'^'", "write '!=', or '**' for a power"),
    "LShift": ("'<<'", "multiply by a power of 2"),
    "RShift": ("'>>'", "divide with '//'"),
    "MatMult": ("'@'", "write '*'"),
    "Invert": ("'~'", "write 'not'"),
    "bytes": ("a string of bytes", "write it without the b"),
    "complex": ("a complex number", "write a real number"),
    "ellipsis": ("'...'", "write the expression in full"),
}

_CONSTANTS = {"true": "True", "false": "False", "null": "None", "none": "None", "TRUE": "True", "FALSE": "False"}


def unsupported(kind: str) -> str:
    """``kind``: the name of a node's or an operator's class in ``ast``, or of a constant's type."""
    what, fix = _NODES.get(
        kind, (kind, "a rule has literals, subscripts, comparisons, arithmetic, comprehensions and a few functions")
    )
    return f"{what} is not allowed; {fix}"


def attribute(text: Text, node: ast.Attribute) -> str:
    if node.attr.startswith("__"):
        fix = "a rule reads values by their keys only: x['key']"
    else:
        fix = f"write {text.quote(node.value)}[{node.attr!r}]"
    return f"attributes are not allowed: {text.quote(node)}; {fix}"


def call(text: Text, node: ast.Call, functions: Iterable[str]) -> str:
    """What to say of a call to anything but one of ``functions``."""
    called, functions = node.func, sorted(functions)
    if isinstance(called, ast.Attribute):
        key = node.args[0] if called.attr == "get" and node.args else None
        if isinstance(key, ast.Constant):
            fix = f"write {text.quote(called.value)}[{text.quote(key)}]"
        else:
            fix = _METHODS.get(called.attr, f"only {' '.join(functions)} can be called")
        return f"attributes are not allowed: {text.quote(called)}(...); {fix}"
    fix = f"only {' '.join(functions)} can be called"
    if isinstance(called, ast.Name):
        near = difflib.get_close_matches(called.id, functions, n=1)
        fix = _CALLS.get(called.id, f"did you mean {near[0]!r}?" if near else fix)
    return f"{text.quote(called)}(...) is not allowed; {fix}"


def unknown_name(name: str, known: Iterable[str], functions: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, [*names, *functions], n=1)
    if name in _CONSTANTS:
        fix = f"write {_CONSTANTS[name]}"
    elif near:
        fix = f"did you mean {near[0]!r}?"
    else:
        owner = "detection" if "detection" in names else "context['step']"
        fix = f"a string needs quotes: '{name}'; a key is read as {owner}['{name}']; known here: {', '.join(names)}"
    return f"unknown name {name!r}; {fix}"
