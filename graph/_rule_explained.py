"""Which parts of a rule explain how it was decided."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from graph._rule_functions import FUNCTIONS

__all__ = ["watched"]


def watched(node: ast.AST, names: frozenset[str]) -> Iterator[ast.expr]:
    """The longest chains of subscripts on ``names``, and the calls, that need no comprehension variable."""
    inside: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.comprehension):
        inside = [node.iter, *node.ifs]
    elif isinstance(node, ast.Call):
        inside = [*node.args, *node.keywords]
        if _closed(node, names):
            yield node
            if isinstance(node.func, ast.Name) and node.func.id == "len" and _is_chain(node.args[0]):
                return  # the length says it shorter
    elif isinstance(node, ast.expr) and _is_chain(node) and _closed(node, names):
        yield node
        return
    for child in inside:
        yield from watched(child, names)


def _is_chain(node: ast.expr) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name)


def _closed(node: ast.expr, names: frozenset[str]) -> bool:
    found = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
    bound = {name.id for name in found if isinstance(name.ctx, ast.Store)}
    return {name.id for name in found} <= names | set(FUNCTIONS) | bound
