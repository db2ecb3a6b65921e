"""What a load needs and what it costs, computed from measurements of a sample."""

from serve_app.planning.costs import EXAMPLE_PRICES, Cost, Prices, cost_of_a_day, read_prices
from serve_app.planning.demand import DayCurve
from serve_app.planning.measurements import Measurements, read_measurements
from serve_app.planning.packing import Item, NodeType, PackedNodes, pack
from serve_app.planning.sampling import measure
from serve_app.planning.sizing import Sizing, size

__all__ = [
    "EXAMPLE_PRICES",
    "Cost",
    "DayCurve",
    "Item",
    "Measurements",
    "NodeType",
    "PackedNodes",
    "Prices",
    "Sizing",
    "cost_of_a_day",
    "measure",
    "pack",
    "read_measurements",
    "read_prices",
    "size",
]
