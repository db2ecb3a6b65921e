"""YAML text to plain data, with the line of every key and item. Every YAML file that a user writes is read here.

PyYAML's safe types, which are YAML 1.1, with differences that prevent mistakes: ``1e-3`` is a number, ``16:9`` and
dates are strings, a leading zero is an error. What JSON cannot hold (other tags, keys that are not strings, infinity)
is an error too, and so is a key that is there twice: one of the two would be ignored without a word.
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
_BOOLS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be read as it stands. ``loc`` is empty where the text could not be parsed."""

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
    """Read one YAML document. Never raises for what the text holds: that is in ``problems``."""
    document = Document()
    try:
        root = yaml.compose(text, Loader=_Loader)
        if root is not None:
            document.data = _Reader(document).value(root, ())
    except yaml.MarkedYAMLError as error:
        document.problems.append(_open_quote(text, error) or _syntax_problem(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        document.problems.append(
            Problem((), line, f"the character {chr(error.character)!r} cannot stand in YAML; remove it")
        )
    except RecursionError:
        document.problems.append(Problem((), None, "nested too deeply"))
    except _TooMuchError as error:
        document.problems.append(Problem((), error.line, str(error)))
    except (ValueError, OverflowError) as error:  # PyYAML on an escape beyond Unicode
        document.problems.append(Problem((), None, f"not YAML: {error}"))
    return document


class _TooMuchError(Exception):
    def __init__(self, line: int) -> None:
        super().__init__(f"more than {MAX_VALUES:,} values after aliases (*name) are expanded; write fewer")
        self.line = line


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._count = 0
        self._open: set[int] = set()  # mappings and lists that are being read, by id
        self._read: set[int] = set()  # mappings that were read

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        line = _line(node)
        self._document.lines.setdefault(loc, line)
        self._counted(line)
        if id(node) in self._open:
            return self._problem(loc, line, "contains itself through an alias (*name); write it out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, loc)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, loc)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
                return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
        finally:
            self._open.discard(id(node))
        return self._problem(loc, line, f"the tag {_tag_text(node)} is not allowed; remove it")

    def _counted(self, line: int, values: int = 1) -> None:
        self._count += values
        if self._count > MAX_VALUES:
            raise _TooMuchError(line)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        self._read.add(id(node))
        for key_node, value_node in node.value:
            line = _line(key_node)
            is_merge = key_node.tag == f"{_TAG}merge"
            key = "<<" if is_merge else self._key(key_node, loc)
            if key is None:
                continue
            if key in first:
                fix = "write `<<: [*a, *b]`" if is_merge else "keep one"
                self._problem((*loc, key), line, f"duplicate key {key!r} (first on line {first[key]}); {fix}")
                continue
            first[key] = line
            if is_merge:
                merged = self._merged(value_node, loc, line)
                continue
            self._document.lines[(*loc, key)] = line
            result[key] = self.value(value_node, (*loc, key))
        for key_node, value_node in merged:  # `<<` gives what the mapping itself does not have
            key = self._key(key_node, loc)
            if key is not None and key not in result:
                self._document.lines[(*loc, key)] = _line(key_node)
                result[key] = self.value(value_node, (*loc, key))
        return result

    def _merged(self, node: yaml.Node, loc: Loc, line: int) -> list[tuple[yaml.Node, yaml.Node]]:
        """The keys and values of the mappings behind a ``<<``, the first of equal keys counts."""
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(source, yaml.MappingNode) or id(source) in self._open:
                self._problem((*loc, "<<"), line, "must be an alias (*name) of another mapping, or a list of aliases")
                continue
            if id(source) not in self._read:  # written here instead of an alias
                self.value(source, (*loc, "<<"))
            self._counted(line, len(source.value))
            self._open.add(id(source))
            merges = [value for key, value in source.value if key.tag == f"{_TAG}merge"]
            pairs += [(key, value) for key, value in source.value if key.tag != f"{_TAG}merge"]
            for inner in merges:
                pairs += self._merged(inner, loc, line)
            self._open.discard(id(source))
        return pairs

    def _key(self, node: yaml.Node, loc: Loc) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}str":
            if _is_text(node.value):
                return str(node.value)
            self._problem(loc, _line(node), "a key has a character that is no text; remove it")
        elif isinstance(node, yaml.ScalarNode):
            self._problem(
                (*loc, node.value), _line(node), f'a key must be a string; write it in quotes: "{node.value}"'
            )
        else:
            self._problem(loc, _line(node), "a key must be a string, not a list or a mapping")
        return None

    def _scalar(self, node: yaml.ScalarNode, loc: Loc) -> Any:
        kind, text, line = node.tag.removeprefix(_TAG), node.value, _line(node)
        try:
            if kind == "str":
                return (
                    text if _is_text(text) else self._problem(loc, line, "has a character that is no text; remove it")
                )
            if kind == "null":
                return None
            if kind == "bool":
                return _BOOLS[text.lower()]
            if kind == "int":
                return _integer(text)
            if kind == "float":
                return self._float(text, loc, line)
        except (ValueError, KeyError):
            digits = text.lstrip("+-0")
            if kind == "int" and text.lstrip("+-").startswith("0") and digits.isdigit():
                fix = f"write {digits}, 0o{digits} for octal, or put it in quotes"
                return self._problem(loc, line, f"{text[:40]} has a leading zero, which some read as octal; {fix}")
            return self._problem(
                loc, line, f"{text[:40]!r} cannot be read as {kind}; write it in quotes if it is a string"
            )
        return self._problem(loc, line, f"the tag {_tag_text(node)} is not allowed; remove it")

    def _float(self, text: str, loc: Loc, line: int) -> float | None:
        number = float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
        return number if math.isfinite(number) else self._problem(loc, line, f"must be a finite number; got {text}")

    def _problem(self, loc: Loc, line: int, message: str) -> Any:
        self._document.problems.append(Problem(loc, line, message))
        return None  # stands in the data for what could not be read


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _tag_text(node: yaml.Node) -> str:
    return f"!!{node.tag.removeprefix(_TAG)}" if node.tag.startswith(_TAG) else str(node.tag)


def _integer(text: str) -> int:
    digits = text.replace("_", "").lower()
    return int(digits, 0)  # which refuses a leading zero: 010 is 8 in YAML 1.1 and 10 in YAML 1.2


def _open_quote(text: str, error: yaml.MarkedYAMLError) -> Problem | None:
    """Where a quote that should have been closed was closed by the next one, many lines on."""
    mark = error.problem_mark
    if mark is None or "but found '<scalar>'" not in (error.problem or ""):
        return None
    before = itertools.takewhile(lambda token: token.end_mark.index <= mark.index, yaml.scan(text, _Loader))
    scalars = [token for token in before if isinstance(token, yaml.ScalarToken)]
    if not scalars or scalars[-1].style not in ("'", '"') or scalars[-1].start_mark.line == scalars[-1].end_mark.line:
        return None
    first, last = scalars[-1].start_mark.line + 1, scalars[-1].end_mark.line + 1
    return Problem((), first, f"a quote that is closed only on line {last}; close it on its own line")


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    problem, context = error.problem or "not YAML", error.context or ""
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    message = f"not YAML:{f' {context},' if context else ''} {problem}"
    if "unknown escape" in problem or "expected escape sequence" in problem:
        message = (
            "an unknown escape: a backslash in double quotes begins one; use single quotes, as in 'C:\\models\\y.pt'"
        )
    elif "'\\t'" in problem:
        message = "a tab; YAML is indented with spaces"
    elif "cannot start any token" in problem:
        message = f"{problem.removeprefix('found ')}; put the text in quotes"
    elif "mapping values are not allowed" in problem:
        message = "a `:` where none can stand; check the indentation, and put texts that have `: ` in them in quotes"
    elif "expected <block end>, but found '<scalar>'" in problem:
        message = "a string goes on after its closing quote; put all of it in double quotes"
    elif "expected <block end>" in problem:
        message = "does not line up with the lines above; check the indentation, and the space after each `-`"
    elif "quoted scalar" in context and opened is not None:
        mark, message = opened, "a quote that is never closed"
    elif "flow" in context and opened is not None:
        bracket = "{" if "mapping" in context else "["
        message = (
            f"a `{bracket}` that is not closed before line {mark.line + 1}, or a comma is missing" if mark else problem
        )
        mark = opened
    elif "simple key" in context and opened is not None:
        mark, message = opened, "a key without `: ` behind it"
    elif "but found another document" in problem:
        message = "a second document (`---`); write one document in a file"
    return Problem((), mark.line + 1 if mark is not None else None, message)
