from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from classifiers import SetupError
from serve_app.planning import Item, NodeType, pack
from serve_app.planning.packing import fits

CPU = NodeType(name="cpu", cpus=8, memory_gb=16, price_per_hour=1, reserved_cpus=0, reserved_memory_gb=0)
GPU = NodeType(name="gpu", cpus=8, gpus=2, memory_gb=16, price_per_hour=4, reserved_cpus=0, reserved_memory_gb=0)


def _cases(seed: int) -> tuple[list[Item], list[NodeType]]:
    generator = random.Random(seed)
    items = [
        Item(
            f"item{i}",
            cpus=generator.choice([0.25, 1, 2, 3, 5]),
            gpus=generator.choice([0, 0, 0.25, 0.4, 0.5, 0.6, 1]),
            memory_gb=generator.choice([0.5, 2, 4, 7]),
        )
        for i in range(generator.randint(3, 7))
    ]
    kinds = [
        NodeType(name="small", cpus=6, memory_gb=8, price_per_hour=generator.uniform(0.2, 0.5)),
        NodeType(name="one", cpus=8, gpus=1, memory_gb=16, price_per_hour=generator.uniform(0.8, 1.2)),
        NodeType(name="large", cpus=32, gpus=4, memory_gb=64, price_per_hour=generator.uniform(2.5, 4.5)),
    ]
    return items, kinds


def _holds(items: list[Item], kind: NodeType) -> bool:
    """Whether any order of first fit places them: for shares of GPUs, every assignment is one of some order."""
    if sum(i.cpus for i in items) > kind.cpus - kind.reserved_cpus + 1e-6:
        return False
    if sum(i.memory_gb for i in items) > kind.memory_gb - kind.reserved_memory_gb + 1e-6:
        return False
    shares = [i.gpus for i in items if i.gpus]
    return _assign(sorted(shares, reverse=True), [1.0] * kind.gpus)


def _assign(shares: list[float], free: list[float]) -> bool:
    if not shares:
        return True
    return any(
        _assign(shares[1:], [*free[:i], left - shares[0], *free[i + 1 :]])
        for i, left in enumerate(free)
        if left >= shares[0] - 1e-6
    )


def _optimum(items: list[Item], kinds: list[NodeType]) -> float:
    """The lowest price, by dynamic programming over all sets of items."""
    full = (1 << len(items)) - 1
    alone = [0.0] * (full + 1)
    for chosen in range(1, full + 1):
        content = [item for i, item in enumerate(items) if chosen >> i & 1]
        alone[chosen] = min((k.price_per_hour for k in kinds if _holds(content, k)), default=math.inf)
    best = [0.0] * (full + 1)
    for chosen in range(1, full + 1):
        best[chosen], part = math.inf, chosen
        while part:
            best[chosen] = min(best[chosen], alone[part] + best[chosen ^ part])
            part = (part - 1) & chosen
    return best[full]


@pytest.mark.parametrize("seed", range(50))
def test_the_price_is_within_a_tenth_of_the_optimum(seed: int) -> None:
    items, kinds = _cases(seed)
    assert pack(dict.fromkeys(items, 1), kinds).price_per_hour <= 1.1 * _optimum(items, kinds) + 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_no_node_has_more_than_it_holds_and_all_replicas_have_a_place(seed: int) -> None:
    items, kinds = _cases(seed)
    wanted = {item: 1 + 13 * i for i, item in enumerate(items)}
    by_name = {item.name: item for item in items}
    placed: Counter[str] = Counter()
    for kind, content, number in pack(wanted, kinds).nodes:
        on_it = list(itertools.chain.from_iterable([by_name[name]] * amount for name, amount in content.items()))
        assert _holds(on_it, kind)
        placed.update({name: amount * number for name, amount in content.items()})
    assert placed == {item.name: number for item, number in wanted.items()}


def test_a_share_of_a_gpu_is_on_one_gpu() -> None:
    share = Item("share", 1, 0.6, 1)
    assert fits([share, share], GPU)
    assert not fits([share, share, share], GPU)  # 1.8 of 2 GPUs, but 0.4 are left on each
    assert not fits([share, Item("whole", 1, 2, 1)], GPU)


def test_cpus_go_to_nodes_without_gpus() -> None:
    packed = pack({Item("a", 4, 0, 4): 4, Item("b", 1, 0.5, 1): 4}, [CPU, GPU])
    assert packed.price_per_hour <= 6  # two nodes without GPUs and one with


def test_a_replica_that_fits_on_no_node_is_named() -> None:
    with pytest.raises(SetupError, match=r"'vast' needs 64 CPUs.*more than any type of node has: cpu, gpu"):
        pack({Item("vast", 64, 0, 1): 1}, [CPU, GPU])


def test_without_types_of_nodes_there_is_no_packing() -> None:
    with pytest.raises(SetupError, match="no types of nodes"):
        pack({Item("a", 1, 0, 1): 1}, [])


def test_a_million_replicas_take_no_longer_than_a_few() -> None:
    packed = pack({Item("a", 4, 0, 4): 1_000_000}, [CPU])
    assert packed.by_type() == {"cpu": 500_000}
