"""YAML text to plain data, with the line of every key and item. Every YAML file that a user writes is read here.

PyYAML's safe types, which are YAML 1.1, with differences that prevent mistakes: ``1e-3`` is a number, ``16:9`` and
dates are strings, a leading zero is an error. What JSON cannot hold (other tags, keys that are not strings, infinity)
is an error too, and so is a duplicate key: one of the two would be silently ignored.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

import yaml

from graph.pipeline_file.report import Loc, place_text

__all__ = ["Document", "Problem", "read_yaml"]

MAX_VALUES = 100_000  # after aliases are expanded; a pipeline of 30 steps has about 500
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be read. ``loc`` is empty where the text could not be parsed."""

    loc: Loc
    line: int | None
    message: str

    def __str__(self) -> str:
        key = f" key {place_text(self.loc)!r}:" if self.loc else ""
        return f"{f'{self.line}:' if self.line is not None else ''}{key} {self.message}"


@dataclass(slots=True)
class Document:
    """What was read: plain data of the types that JSON has, lines counted from 1, and what was wrong with it. An
    empty file has no lines."""

    data: Any = None
    lines: dict[Loc, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]


for _kind, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", "<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _kind, re.compile(rf"^(?:{_pattern})$"), list(_first))


def read_yaml(text: str) -> Document:
    """Read one YAML document. Never raises: errors in the text are in ``problems``."""
    document = Document()
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            document.data = _Reader(document).value(root, ())
    except yaml.MarkedYAMLError as error:
        document.problems.append(_open_quote(text, error) or _syntax_problem(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"the character {chr(error.character)!r} is not allowed in YAML; remove it"
        document.problems.append(Problem((), line, message))
    except RecursionError:
        document.problems.append(Problem((), None, "nested too deeply"))
    except _TooManyValues as error:
        message = f"more than {MAX_VALUES:,} values after aliases (*name) are expanded; write fewer"
        document.problems.append(Problem((), error.args[0], message))
    except (ValueError, OverflowError) as error:  # PyYAML on an escape beyond Unicode
        document.problems.append(Problem((), None, f"not YAML: {error}"))
    return document


class _TooManyValues(Exception):
    """Its argument is the line."""


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._open: set[int] = set()  # mappings and lists that are being read, by id

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self._document.lines.setdefault(loc, _line(node))
        self._count += 1
        if self._count > MAX_VALUES:
            raise _TooManyValues(_line(node))
        if id(node) in self._open:
            return self._problem(loc, node, "contains itself through an alias (*name); write it out")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, loc)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, loc)
        finally:
            self._open.discard(id(node))
        return self._problem(loc, node, f"the tag {_tag_text(node)} is not allowed; remove it")

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, loc)
            if key in first:
                self._problem((*loc, key), key_node, f"duplicate key {key!r} (first on line {first[key]}); keep one")
            elif key is not None:
                first[key] = _line(key_node)
                self._document.lines.setdefault((*loc, key), _line(key_node))
                if key_node.tag != f"{_TAG}merge":
                    result[key] = self.value(value_node, (*loc, key))
        for at, merged in [pair for pair in node.value if pair[0].tag == f"{_TAG}merge"][:1]:
            # It adds the keys that the mapping itself does not have; the first of equal keys wins.
            for source in merged.value if isinstance(merged, yaml.SequenceNode) else [merged]:
                if isinstance(source, yaml.MappingNode) and id(source) not in self._open:
                    for key, value in (self.value(source, loc) or {}).items():
                        result.setdefault(key, value)
                else:
                    message = "must be an alias (*name) of another mapping, or a list of aliases"
                    self._problem((*loc, "<<"), at, message)
        return result

    def _key(self, node: yaml.Node, loc: Loc) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(loc, node, "a key must be a string, not a list or a mapping")
        elif node.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            self._problem((*loc, node.value), node, f'a key must be a string; write it in quotes: "{node.value}"')
        elif not _is_text(node.value):
            self._problem(loc, node, "a key has a character that is not Unicode; remove it")
        else:
            return str(node.value)
        return None

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if kind == "str":
            return (
                text if _is_text(text) else self._problem(loc, node, "has a character that is not Unicode; remove it")
            )
        digits = text.replace("_", "").lower()
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return yaml.SafeLoader.bool_values[text.lower()]
            if kind == "int":
                return int(digits, 0)  # which refuses a leading zero: 010 is 8 in YAML 1.1 and 10 in YAML 1.2
            if kind == "float":
                number = float(digits.replace(".inf", "inf").replace(".nan", "nan"))
                if math.isfinite(number):
                    return number
                return self._problem(loc, node, f"must be a finite number; got {text}")
        except (ValueError, KeyError):
            fix = "write it in quotes if it is a string, and without a leading zero if it is a number"
            return self._problem(loc, node, f"{text[:40]!r} cannot be read as {kind}; {fix}")
        return self._problem(loc, node, f"the tag {_tag_text(node)} is not allowed; remove it")

    def _problem(self, loc: Loc, node: yaml.Node, message: str) -> Any:
        self._document.problems.append(Problem(loc, _line(node), message))
        return None  # in the data, in place of what could not be read


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _tag_text(node: yaml.Node) -> str:
    return f"!!{node.tag.removeprefix(_TAG)}" if node.tag.startswith(_TAG) else str(node.tag)


def _open_quote(text: str, error: yaml.MarkedYAMLError) -> Problem | None:
    """Where a missing closing quote made the string end at the next quote, many lines later."""
    mark = error.problem_mark
    if mark is None or "but found '<scalar>'" not in (error.problem or ""):
        return None
    before = itertools.takewhile(lambda token: token.end_mark.index <= mark.index, yaml.scan(text, _Loader))
    quoted = [token for token in before if isinstance(token, yaml.ScalarToken)][-1:]
    if not quoted or quoted[0].style not in ("'", '"') or quoted[0].start_mark.line == quoted[0].end_mark.line:
        return None
    first, last = quoted[0].start_mark.line + 1, quoted[0].end_mark.line + 1
    return Problem((), first, f"a quote that is closed only on line {last}; close it on its own line")


_ESCAPE = "an unknown escape: a backslash in double quotes begins one; use single quotes, as in 'C:\\models\\y.pt'"
_IN_WORDS = {
    "unknown escape": _ESCAPE,
    "expected escape sequence": _ESCAPE,
    "'\\t'": "a tab; YAML is indented with spaces",
    "cannot start any token": "a character that cannot begin a value; put the value in quotes",
    "mapping values are not allowed": (
        "an unexpected `:`; check the indentation, and put values that contain `: ` in quotes"
    ),
    "but found '<scalar>'": "text after the closing quote; put the whole value in double quotes",
    "expected <block end>": "does not line up with the lines above; check the indentation and the space after each `-`",
    "but found another document": "a second document (`---`); a file has one",
}
"""By a part of PyYAML's message."""

_BEGUN = {
    "quoted scalar": "a quote that is never closed",
    "flow mapping": "a `{` that is not closed, or a comma is missing",
    "flow sequence": "a `[` that is not closed, or a comma is missing",
    "simple key": "a key without `: ` after it",
}
"""By a part of PyYAML's context: what begins there and does not end."""


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    problem, context = error.problem or "not YAML", error.context or ""
    found = [(error.problem_mark, words) for part, words in _IN_WORDS.items() if part in problem]
    found += [(error.context_mark, words) for part, words in _BEGUN.items() if part in context]
    mark, message = found[0] if found else (None, f"not YAML: {f'{context}, ' if context else ''}{problem}")
    mark = mark or error.problem_mark or error.context_mark
    return Problem((), mark.line + 1 if mark is not None else None, message)
