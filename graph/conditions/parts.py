"""Parts of a rule: those that explain how it was decided, and those that are constant."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator

from graph.conditions.values import FUNCTIONS

__all__ = ["constants", "watched"]


def watched(node: ast.AST, names: Collection[str]) -> Iterator[ast.expr]:
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


def constants(node: ast.AST) -> Iterator[ast.expr]:
    """The largest parts that read nothing and compute something."""
    if isinstance(node, ast.expr) and not isinstance(node, ast.GeneratorExp | ast.Slice) and _closed(node, ()):
        if any(isinstance(part, _COMPUTES) for part in ast.walk(node)):
            yield node
        return
    for child in ast.iter_child_nodes(node):
        yield from constants(child)


_COMPUTES = (ast.BinOp, ast.Call, ast.Compare, ast.Dict, ast.Set, ast.Subscript, ast.UnaryOp, ast.comprehension)


def _is_chain(node: ast.expr) -> bool:
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name)


def _closed(node: ast.expr, names: Collection[str]) -> bool:
    """Whether it reads nothing but ``names`` and its own comprehension variables."""
    found = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
    bound = {name.id for name in found if isinstance(name.ctx, ast.Store)}
    return {name.id for name in found} <= {*names, *FUNCTIONS, *bound}
