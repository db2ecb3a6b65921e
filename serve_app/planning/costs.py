"""What a day costs: nodes, and requests to the store and the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import Field

from classifiers.validation import Closed
from serve_app.planning.demand import DayCurve
from serve_app.planning.packing import Item, NodeType, PackedNodes, pack
from serve_app.planning.sizing import DeploymentSize, replicas_for
from serve_app.planning.yaml_files import read_model

__all__ = ["EXAMPLE_PRICES", "Cost", "Prices", "RequestPrices", "cost_of_a_day", "read_prices"]

EXAMPLE_PRICES = Path(__file__).with_name("prices.yaml")
"""A file to copy and edit."""


class RequestPrices(Closed):
    """Requests of one image, and what a million of them costs."""

    store_writes: float = Field(ge=0, description="Writes to the store per image.", examples=[3])
    store_reads: float = Field(ge=0, description="Reads from the store per image.", examples=[3])
    queue_requests: float = Field(ge=0, description="Requests to the queue per image.", examples=[3])
    price_per_million_writes: float = Field(ge=0, description="Price of a million writes.", examples=[5.0])
    price_per_million_reads: float = Field(ge=0, description="Price of a million reads.", examples=[0.4])
    price_per_million_queue_requests: float = Field(
        ge=0, description="Price of a million requests to the queue.", examples=[0.4]
    )

    @property
    def per_million_images(self) -> float:
        """Price of all requests of a million images."""
        return (
            self.store_writes * self.price_per_million_writes
            + self.store_reads * self.price_per_million_reads
            + self.queue_requests * self.price_per_million_queue_requests
        )


class Prices(Closed):
    """The prices file."""

    currency: str = Field(min_length=1, description="For all prices.", examples=["USD"])
    as_of: date = Field(description="When the prices were read.", examples=["2026-11-30"])
    source: str = Field(min_length=1, description="Where they were read.", examples=["price list of the provider"])
    nodes: tuple[NodeType, ...] = Field(min_length=1, description="Types of nodes that can be rented.")
    requests: RequestPrices = Field(description="Requests to the store and the queue.")


@dataclass(frozen=True)
class Cost:
    """What a day costs.

    Attributes:
        at_peak: the nodes at the peak.
        node_hours: of a day in which the replicas follow the load, by type of node.
        nodes, requests: price of a day.
        nodes_fixed: price of a day with the nodes of the peak all day.
        cpu_hours, gpu_hours: that the replicas reserve in a day.
    """

    at_peak: PackedNodes
    node_hours: dict[str, int]
    nodes: float
    nodes_fixed: float
    requests: float
    cpu_hours: float
    gpu_hours: float
    per_million_images: float

    @property
    def per_day(self) -> float:
        """Nodes that follow the load, and requests."""
        return self.nodes + self.requests


def read_prices(path: str | Path) -> Prices:
    """Read a prices file, such as :data:`EXAMPLE_PRICES`.

    Raises:
        SetupError: it cannot be read, or has errors; all are named.
    """
    return read_model(path, Prices, "prices file")


def cost_of_a_day(
    deployments: Sequence[DeploymentSize], day: DayCurve, prices: Prices, utilisation: float, *, with_requests: bool
) -> Cost:
    """Pack the replicas of each hour of the day, and add up.

    Args:
        deployments: with their replicas at the peak.
        day: the load.
        prices: of nodes and requests.
        utilisation: that the replicas were sized for.
        with_requests: whether images come through a queue and results go to the store.

    Raises:
        SetupError: a replica fits on no type of node.
    """
    at_peak = pack({each.item: each.replicas for each in deployments}, prices.nodes)
    node_hours: dict[str, int] = {}
    nodes = cpu_hours = gpu_hours = 0.0
    packed: dict[tuple[int, ...], PackedNodes] = {}
    for rate in day.rates():
        counts = tuple(min(each.replicas, replicas_for(float(rate), each.busy_s, utilisation)) for each in deployments)
        items: dict[Item, int] = {each.item: count for each, count in zip(deployments, counts, strict=True)}
        if counts not in packed:
            packed[counts] = pack(items, prices.nodes)
        nodes += packed[counts].price_per_hour
        for name, number in packed[counts].by_type().items():
            node_hours[name] = node_hours.get(name, 0) + number
        cpu_hours += sum(item.cpus * count for item, count in items.items())
        gpu_hours += sum(item.gpus * count for item, count in items.items())
    millions = day.images_per_day / 1e6
    requests = prices.requests.per_million_images * millions if with_requests else 0.0
    return Cost(
        at_peak,
        node_hours,
        nodes,
        24 * at_peak.price_per_hour,
        requests,
        cpu_hours,
        gpu_hours,
        (nodes + requests) / millions,
    )
