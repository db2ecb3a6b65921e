"""Where boxes and lines go in a picture of a layered graph, from left to right.

The steps of Sugiyama, Tagawa and Toda (1981), each in its simplest form: layers by longest path, a stand-in for a line
in each layer that it only passes, barycentre sweeps against crossings, and positions near the neighbours' mean, kept
apart by isotonic regression (pool adjacent violators).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Box", "Layout", "depths", "lay_out"]

_SWEEPS = 8
_PASSING_HEIGHT = 12.0  # room for a line between two boxes

_Node = tuple[str, ...]
"""``(box,)``, or ``(source, target, layer)`` for a line that passes a layer."""


@dataclass(frozen=True, slots=True)
class Box:
    """Left upper corner and size, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Layout:
    """The picture's size, its boxes by name, and for each line (source, target) the points that it goes through."""

    width: float
    height: float
    boxes: Mapping[str, Box]
    lines: Mapping[tuple[str, str], tuple[tuple[float, float], ...]]


def lay_out(
    sizes: Mapping[str, tuple[float, float]], parents: Mapping[str, Sequence[str]], gap_x: float, gap_y: float
) -> Layout:
    """Place boxes so that each stands right of its parents.

    Args:
        sizes: (width, height) of each box, in pixels; their order decides where nothing else does.
        parents: for each box those that have a line to it. Acyclic.
        gap_x: between layers.
        gap_y: between the boxes of a layer.
    """
    depth = depths(parents)
    layers, neighbours = _layers(sizes, parents, depth)
    heights = {node: sizes[node[0]][1] if len(node) == 1 else _PASSING_HEIGHT for layer in layers for node in layer}
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            _order(layer, layers, neighbours)
    centres = _centres(layers, neighbours, heights, gap_y)
    top = min(centre - heights[node] / 2 for node, centre in centres.items())
    columns: list[float] = []
    widths = [max((sizes[node[0]][0] for node in layer if len(node) == 1), default=0.0) for layer in layers]
    right = 0.0
    for width in widths:
        columns.append(right)
        right += width + gap_x
    boxes = {
        node[0]: Box(columns[index], centres[node] - heights[node] / 2 - top, *sizes[node[0]])
        for index, layer in enumerate(layers)
        for node in layer
        if len(node) == 1
    }
    lines = {
        (parent, child): _points(parent, child, boxes, depth, columns, widths, centres, top)
        for child, names in parents.items()
        for parent in names
    }
    bottom = max(centre + heights[node] / 2 for node, centre in centres.items())
    return Layout(right - gap_x, bottom - top, boxes, lines)


def depths(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """For each name the length of the longest way to it from one without parents. Acyclic, in any order."""
    depth: dict[str, int] = {}
    waiting = list(parents)
    while waiting:
        for name in [name for name in waiting if all(parent in depth for parent in parents[name])]:
            depth[name] = max((depth[parent] + 1 for parent in parents[name]), default=0)
            waiting.remove(name)
    return depth


def _layers(
    sizes: Mapping[str, object], parents: Mapping[str, Sequence[str]], depth: Mapping[str, int]
) -> tuple[list[list[_Node]], dict[_Node, set[_Node]]]:
    layers: list[list[_Node]] = [[] for _ in range(max(depth.values()) + 1)]
    neighbours: dict[_Node, set[_Node]] = {}
    for name in sizes:
        layers[depth[name]].append((name,))
        neighbours[(name,)] = set()
    for child, names in parents.items():
        for parent in names:
            passing: list[_Node] = [(parent, child, str(layer)) for layer in range(depth[parent] + 1, depth[child])]
            for layer, node in enumerate(passing, depth[parent] + 1):
                layers[layer].append(node)
            chain: list[_Node] = [(parent,), *passing, (child,)]
            for left, right in pairwise(chain):
                neighbours.setdefault(left, set()).add(right)
                neighbours.setdefault(right, set()).add(left)
    return layers, neighbours


def _order(layer: list[_Node], layers: Sequence[Sequence[_Node]], neighbours: Mapping[_Node, set[_Node]]) -> None:
    places = {node: index / max(len(other), 1) for other in layers for index, node in enumerate(other)}

    def barycentre(node: _Node) -> float:
        around = [places[neighbour] for neighbour in neighbours[node]]
        return sum(around) / len(around) if around else places[node]

    layer.sort(key=barycentre)


def _centres(
    layers: Sequence[Sequence[_Node]],
    neighbours: Mapping[_Node, set[_Node]],
    heights: Mapping[_Node, float],
    gap_y: float,
) -> dict[_Node, float]:
    centres: dict[_Node, float] = dict.fromkeys((node for layer in layers for node in layer), 0.0)
    for sweep in range(_SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = []
            for node in layer:
                around = [centres[neighbour] for neighbour in neighbours[node]]
                wanted.append(sum(around) / len(around) if around else centres[node])
            centres |= zip(layer, _apart(wanted, [heights[node] for node in layer], gap_y), strict=True)
    return centres


def _apart(wanted: Sequence[float], heights: Sequence[float], gap: float) -> list[float]:
    """The centres nearest to ``wanted``, by least squares, that keep boxes in their order and ``gap`` apart."""
    offsets = [0.0]
    for above, below in pairwise(heights):
        offsets.append(offsets[-1] + (above + below) / 2 + gap)
    blocks: list[tuple[float, int]] = []  # mean, count
    for value, offset in zip(wanted, offsets, strict=True):
        mean, count = value - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _points(
    parent: str,
    child: str,
    boxes: Mapping[str, Box],
    depth: Mapping[str, int],
    columns: Sequence[float],
    widths: Sequence[float],
    centres: Mapping[_Node, float],
    top: float,
) -> tuple[tuple[float, float], ...]:
    start, end = boxes[parent], boxes[child]
    points = [(start.x + start.width, start.y + start.height / 2)]
    for layer in range(depth[parent] + 1, depth[child]):
        y = centres[(parent, child, str(layer))] - top
        points += [(columns[layer], y), (columns[layer] + widths[layer], y)]
    return (*points, (end.x, end.y + end.height / 2))
