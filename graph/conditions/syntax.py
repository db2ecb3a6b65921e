"""The text of a rule: parsed within limits, with the way back from a node to its characters."""

from __future__ import annotations

import ast
import re

from classifiers.errors import SetupError

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "TOO_DEEP", "RuleSyntaxError", "Text"]

MAX_LENGTH = 4_000
"""Characters of a rule: room for 250 class names."""

MAX_DEPTH = 60
"""Levels of nested expressions: more than a person can read, and few enough for the interpreter's stack."""

TOO_DEEP = f"the rule is nested more than {MAX_DEPTH} levels deep; split it, or put fewer operators in a row"

_QUOTED = 60  # characters of the rule that a message quotes
_UNKNOWN_ESCAPE = re.compile(r"""(?<!\\)(?:\\\\)*(\\[^\\'"abfnrtvxuUN0-7\n])""")
_NOT_PYTHON = {"&&": "and", "||": "or", "<>": "!=", "===": "=="}


class RuleSyntaxError(SetupError):
    """The text is not a rule; the message says what is wrong and the fix.

    Attributes:
        column: where in ``Rule.source`` (the stripped text), in characters from 1; ``None``: in no one place.
    """

    def __init__(self, message: str, column: int | None = None) -> None:
        super().__init__(f"{message} (column {column})" if column else message)
        self.column = column


class Text:
    """A parsed rule.

    Raises:
        RuleSyntaxError: it is empty, too long, too deeply nested, or not a Python expression.
    """

    def __init__(self, source: str) -> None:
        if not source:
            raise RuleSyntaxError("the rule is empty; write an expression, or leave the key out")
        if len(source) > MAX_LENGTH:
            message = f"the rule has {len(source)} characters, {MAX_LENGTH} are allowed; split it over several steps"
            raise RuleSyntaxError(message, MAX_LENGTH)
        for position, character in enumerate(source, start=1):
            if character not in "\n\t" and not character.isprintable():
                message = f"the character {character!r} is not allowed; write it as an escape in a string"
                raise RuleSyntaxError(message, position)
        if wrong := _UNKNOWN_ESCAPE.search(source):  # Python would keep the backslash, with a warning on stderr
            message = f"{wrong[1]} is no escape in a string; write \\\\ for a backslash"
            raise RuleSyntaxError(message, wrong.start(1) + 1)
        self._length = len(source)
        self._before = "(\n" if "\n" in source else ""  # in brackets an expression may have several lines
        self._parsed = f"{self._before}{source}\n)" if self._before else source
        self.tree = self._parse()

    def _parse(self) -> ast.expr:
        try:
            tree = ast.parse(self._parsed, mode="eval").body
        except SyntaxError as error:
            raise self._not_an_expression(error.msg, error.lineno or 1, (error.offset or 1) - 1) from None
        except (RecursionError, MemoryError):  # MemoryError is what the parser raises when its own stack is full
            raise RuleSyntaxError(TOO_DEEP) from None
        if self._before and tree.lineno == 1 and not isinstance(tree, ast.Tuple | ast.GeneratorExp):
            raise self._not_an_expression("unmatched ')'", 1, 0)  # the rule closes the bracket around it
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
        return text if len(text) <= _QUOTED else f"{text[:_QUOTED]}..."

    def error(self, node: ast.expr, message: str) -> RuleSyntaxError:
        """The error to raise because of a node."""
        line = self._parsed.split("\n")[node.lineno - 1].encode()  # ast counts in bytes
        return RuleSyntaxError(message, self._column(node.lineno, len(line[: node.col_offset].decode())))

    def _column(self, line: int, characters: int) -> int:
        before = sum(len(text) + 1 for text in self._parsed.split("\n")[: line - 1]) - len(self._before)
        return max(1, min(before + characters + 1, self._length))

    def _not_an_expression(self, problem: str, line: int, characters: int) -> RuleSyntaxError:
        found = [f"write {right!r} for {wrong!r}" for wrong, right in _NOT_PYTHON.items() if wrong in self._parsed]
        fix = found[0] if found else "a rule is one expression, such as detection['confidence'] >= 0.5"
        return RuleSyntaxError(f"not a Python expression: {problem}; {fix}", self._column(line, characters))
