"""The figures of docs/scaling.md are those of the tool."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph import load_plan
from serve_app.planning import DayCurve, cost_of_a_day, read_measurements, read_prices, size

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("images", [10e6, 100e6, 1e9])
def test_the_table_is_what_plan_computes(images: float) -> None:
    day = DayCurve(images, 3)
    measured = read_measurements(ROOT / "docs" / "scaling-measurements.yaml")
    sizing = size(load_plan(ROOT / "configs" / "demo.yaml"), measured, day.peak_per_s)
    cost = cost_of_a_day(
        sizing.deployments, day, read_prices(ROOT / "serve_app" / "planning" / "prices.yaml"), 0.7, with_requests=True
    )
    cells = [
        f"{day.peak_per_s:,.0f}/s",
        *(f"{each.replicas:,}" for each in sizing.deployments),
        f"${cost.nodes:,.0f}",
        f"${cost.requests:,.0f}",
        f"${cost.per_million_images:,.2f}",
    ]
    assert f" | {' | '.join(cells)} |" in (ROOT / "docs" / "scaling.md").read_text()
