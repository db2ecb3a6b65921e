"""Places replicas on nodes: vector bin packing of CPUs, memory and shares of GPUs, for the lowest price."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from classifiers import SetupError
from classifiers.validation import Closed

__all__ = ["Item", "NodeType", "PackedNodes", "fits", "pack"]

_EPSILON = 1e-6
_TRIES = 150  # random orders; the seed is fixed, so that a plan is reproducible


class NodeType(Closed):
    """A kind of node that can be rented. ``reserved_*`` is for the system and Ray itself."""

    name: str = Field(min_length=1, description="Its name.", examples=["cpu-16"])
    cpus: float = Field(gt=0, description="CPU cores.", examples=[16])
    gpus: int = Field(0, ge=0, description="GPUs.", examples=[1])
    memory_gb: float = Field(gt=0, description="Memory, in GiB.", examples=[64])
    price_per_hour: float = Field(ge=0, description="Price of an hour.", examples=[0.8])
    reserved_cpus: float = Field(0.5, ge=0, description="CPU cores for the system and Ray.", examples=[0.5])
    reserved_memory_gb: float = Field(2, ge=0, description="Memory for the system and Ray, in GiB.", examples=[2])


@dataclass(frozen=True, slots=True)
class Item:
    """What one replica reserves. ``gpus`` is a share of one GPU, or a whole number of GPUs."""

    name: str
    cpus: float
    gpus: float
    memory_gb: float


@dataclass(frozen=True)
class PackedNodes:
    """Nodes with what runs on them.

    Attributes:
        nodes: each kind of node with what is on it (names with numbers), and how many there are of it.
        price_per_hour: of all.
    """

    nodes: tuple[tuple[NodeType, Mapping[str, int], int], ...]
    price_per_hour: float

    def by_type(self) -> dict[str, int]:
        """Number of nodes by the name of their type."""
        counts: Counter[str] = Counter()
        for kind, _, number in self.nodes:
            counts[kind.name] += number
        return dict(counts)


class _Node:
    """What is left on a node. A share of a GPU is on one GPU: two halves free on two GPUs take no whole one."""

    def __init__(self, kind: NodeType) -> None:
        self.cpus = kind.cpus - kind.reserved_cpus
        self.memory_gb = kind.memory_gb - kind.reserved_memory_gb
        self.gpus = [1.0] * kind.gpus

    def take(self, item: Item) -> bool:
        if item.cpus > self.cpus + _EPSILON or item.memory_gb > self.memory_gb + _EPSILON:
            return False
        if item.gpus > 0 and not self._take_gpus(item.gpus):
            return False
        self.cpus -= item.cpus
        self.memory_gb -= item.memory_gb
        return True

    def _take_gpus(self, share: float) -> bool:
        whole = math.ceil(share - _EPSILON)
        needed = [share] if share <= 1 else [1.0] * whole
        # the fullest first, so that whole ones stay free
        free = [
            i for i in sorted(range(len(self.gpus)), key=self.gpus.__getitem__) if self.gpus[i] >= needed[0] - _EPSILON
        ]
        if len(free) < len(needed):
            return False
        for index, amount in zip(free, needed, strict=False):
            self.gpus[index] -= amount
        return True


def fits(items: Sequence[Item], kind: NodeType) -> bool:
    """Whether first-fit places all items on one node of this kind, in this order."""
    node = _Node(kind)
    return all(node.take(item) for item in items)


def pack(items: Mapping[Item, int], kinds: Sequence[NodeType]) -> PackedNodes:
    """Place replicas on nodes so that the price is low.

    Nodes are filled one after another, the largest replicas first, each of the type that costs least for what it takes.
    That is repeated with other orders, and the cheapest wins; each node then becomes the cheapest type that holds what
    is on it. Equal nodes are made at once, so the time does not grow with the number of replicas.

    Args:
        items: what is to be placed, and how many of each.
        kinds: what there is.

    Raises:
        SetupError: there is no type of node, or an item is larger than each.
    """
    if not kinds:
        raise SetupError("there are no types of nodes; list at least one under `nodes:` of the prices or nodes file")
    wanted = {item: number for item, number in items.items() if number > 0}
    for item in wanted:
        if not any(fits([item], kind) for kind in kinds):
            raise SetupError(
                f"a replica of '{item.name}' needs {item.cpus:g} CPUs, {item.gpus:g} GPUs and {item.memory_gb:.1f} "
                f"GiB, more than any type of node has: {', '.join(kind.name for kind in kinds)}; add a larger one"
            )
    scale = _scale(kinds)
    largest_first = sorted(wanted, key=lambda item: _size(item, scale), reverse=True)
    generator = random.Random(0)
    best = _fill(largest_first, wanted, kinds, scale)
    for _ in range(_TRIES if len(wanted) > 1 else 0):
        order = largest_first[:]
        generator.shuffle(order)
        allowed = [kind for kind in kinds if generator.random() < 0.7] or list(kinds)
        if all(any(fits([item], kind) for kind in allowed) for item in order):
            tried = _fill(order, wanted, allowed, scale, generator)
            best = min(best, tried, key=lambda packed: packed.price_per_hour)
    return best


def _fill(
    order: Sequence[Item],
    wanted: Mapping[Item, int],
    kinds: Sequence[NodeType],
    scale: tuple[float, float, float],
    generator: random.Random | None = None,
) -> PackedNodes:
    left = dict(wanted)
    nodes: list[tuple[NodeType, dict[str, int], int]] = []
    while any(left.values()):
        options: list[tuple[float, int, dict[Item, int]]] = []
        for kind in kinds:
            taken = _take(order, left, kind)
            value = sum(_size(item, scale) * number for item, number in taken.items())
            noise = 1.0 if generator is None else generator.uniform(0.7, 1.4)
            if value:
                options.append((kind.price_per_hour * noise / value, len(options), taken))
        taken = min(options)[2]
        number = min(left[item] // amount for item, amount in taken.items())
        for item, amount in taken.items():
            left[item] -= amount * number
        contents = [item for item, amount in taken.items() for _ in range(amount)]
        holding = [each for each in kinds if fits(contents, each)]
        kind = min(holding, key=lambda each: each.price_per_hour)
        nodes.append((kind, {item.name: amount for item, amount in taken.items()}, number))
    return PackedNodes(tuple(nodes), sum(kind.price_per_hour * number for kind, _, number in nodes))


def _take(order: Sequence[Item], left: Mapping[Item, int], kind: NodeType) -> dict[Item, int]:
    node, taken = _Node(kind), Counter[Item]()
    for item in order:
        while taken[item] < left[item] and node.take(item):
            taken[item] += 1
    return {item: number for item, number in taken.items() if number}


def _scale(kinds: Sequence[NodeType]) -> tuple[float, float, float]:
    return (
        max(kind.cpus for kind in kinds),
        max(1, *(kind.gpus for kind in kinds)) if len(kinds) > 1 else max(1, kinds[0].gpus),
        max(kind.memory_gb for kind in kinds),
    )


def _size(item: Item, scale: tuple[float, float, float]) -> float:
    """The share of the largest node that an item takes, of all kinds of resources together."""
    return max(1e-9, item.cpus / scale[0] + item.gpus / scale[1] + item.memory_gb / scale[2])
