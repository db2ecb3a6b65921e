"""Demand, measurements, sizing and costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from classifiers import SetupError
from graph import load_plan
from serve_app.planning import DayCurve, Measurements, cost_of_a_day, read_measurements, read_prices, size

PRICES = Path(__file__).parents[3] / "serve_app" / "planning" / "prices.yaml"

PIPELINE = {
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs"},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect"},
    ]
}


def _batch(duration_s: float, **more: float) -> dict[str, float]:
    return {"duration_s": duration_s, "cpu_s": duration_s, **more}


def _measured(**colour: Any) -> dict[str, Any]:
    return {
        "source": "a test",
        "images": 100,
        "bytes_per_image": 100_000,
        "entry_cpu_s": 0.004,
        "message_cpu_s": 0.001,
        "steps": {
            "detect": {"images": 100, "crops": {1: 100}, "batches": {1: _batch(0.05), 4: _batch(0.16)}},
            "colour": {"images": 50, "crops": {1: 25, 3: 25}, "batches": {1: _batch(0.01), 8: _batch(0.04)}} | colour,
        },
    }


def test_a_day_has_its_images_and_its_peak() -> None:
    day = DayCurve(86_400_000, 5)
    rates = day.rates(1440)
    assert rates.mean() * 86_400 == pytest.approx(86_400_000)
    assert rates.max() == pytest.approx(5000, rel=0.001)
    assert DayCurve(86_400, 1).rates().max() == pytest.approx(1, rel=0.001)


@pytest.mark.parametrize(
    ("images", "peak", "message"),
    [(0, 5, "images per day must be above 0"), (-1, 5, "above 0"), (float("nan"), 5, "above 0"),
     (10, 0, "from 1 to 100.*got 0"), (10, 0.5, "from 1"), (10, float("inf"), "from 1")],
)  # fmt: skip
def test_nonsense_is_no_day(images: float, peak: float, message: str) -> None:
    with pytest.raises(SetupError, match=message):
        DayCurve(images, peak)


def test_replicas_are_rate_by_time_by_utilisation() -> None:
    sizing = size(load_plan(PIPELINE), Measurements.model_validate(_measured()), 100, utilisation=0.5)
    by_name = {each.name: each for each in sizing.deployments}
    # 40 ms per image in a batch of 4, and 1 ms for the message: 100 / s * 41 ms / 0.5 = 8.2
    assert by_name["detect"].replicas == 9
    # half of the images, two crops each, 5 ms per crop, and half a message: 5.5 ms, 1.1 replicas
    assert by_name["colour"].replicas == 2
    # 4 ms, and messages to detect and half of the time to colour: 5.5 ms
    assert by_name["gateway"].replicas == 2
    assert sizing.bottleneck.name == "detect"
    assert sizing.most_images_per_s == pytest.approx(9 / 0.041)


def test_steps_in_one_process_are_sized_together() -> None:
    together = [{**step, "serve": {"colocate_with": "ingress" if i == 0 else "detect"}}
                for i, step in enumerate(PIPELINE["pipeline"])]  # fmt: skip
    sizing = size(load_plan({"pipeline": together}), Measurements.model_validate(_measured()), 100)
    assert [each.name for each in sizing.deployments] == ["gateway"]
    assert sizing.deployments[0].cpu_s == pytest.approx(0.04 + 0.005 + 0.004)  # and no messages


def test_the_distribution_of_crops_is_known() -> None:
    step = Measurements.model_validate(_measured()).steps["colour"]
    assert (step.crops_at(0.5), step.crops_at(0.99), step.total_crops) == (1, 3, 100)


def test_a_step_that_never_ran_says_how_large_a_sample_is_needed() -> None:
    measured = Measurements.model_validate(_measured(images=0, crops={}, batches={}))
    with pytest.raises(SetupError, match=r"'colour' never ran on the 100 images.*less than 3.0%.*at least 10,000"):
        size(load_plan(PIPELINE), measured, 100)


def test_a_step_that_ran_rarely_is_noted() -> None:
    notes = size(load_plan(PIPELINE), Measurements.model_validate(_measured(images=5, crops={1: 5})), 100).notes
    assert notes == (
        "'colour' ran on only 5 of 100 images: its rate is uncertain; a sample of 600 images would show it on 30",
    )


def test_gpu_steps_need_gpu_figures() -> None:
    steps = [{**PIPELINE["pipeline"][0], "serve": {"num_gpus": 0.5}}, PIPELINE["pipeline"][1]]
    content = _measured()
    with pytest.raises(SetupError, match=r"'detect' reserves 0.5 GPUs, but was measured without one.*gpu_s"):
        size(load_plan({"pipeline": steps}), Measurements.model_validate(content), 100)
    content["steps"]["detect"]["batches"] = {4: _batch(0.016, gpu_s=0.012)}
    sizing = size(load_plan({"pipeline": steps}), Measurements.model_validate(content), 100)
    assert sizing.deployments[1].item.gpus == 0.5
    assert sizing.steps[0].gpu_s == pytest.approx(0.003)


def test_missing_steps_and_peaks_are_named() -> None:
    content = _measured()
    del content["steps"]["colour"]
    measured = Measurements.model_validate(content)
    with pytest.raises(SetupError, match="'colour' is not in the measurements, which have: detect"):
        size(load_plan(PIPELINE), measured, 100)
    with pytest.raises(SetupError, match="peak must be above 0"):
        size(load_plan(PIPELINE), measured, 0)


def test_a_day_costs_its_hours_and_requests() -> None:
    day, prices = DayCurve(10e6, 3), read_prices(PRICES)
    sizing = size(load_plan(PIPELINE), Measurements.model_validate(_measured()), day.peak_per_s)
    cost = cost_of_a_day(sizing.deployments, day, prices, 0.7, with_requests=True)
    assert cost.requests == pytest.approx(10 * (3 * 5 + 3 * 0.4 + 3 * 0.4))
    assert cost.nodes < cost.nodes_fixed == pytest.approx(24 * cost.at_peak.price_per_hour)
    assert cost.per_million_images == pytest.approx(cost.per_day / 10)
    assert cost_of_a_day(sizing.deployments, day, prices, 0.7, with_requests=False).requests == 0


@pytest.mark.parametrize("reader", [read_prices, read_measurements])
def test_files_that_are_missing_or_wrong_are_named(reader: Any, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"cannot read the .* file .*none\.yaml: No such file"):
        reader(tmp_path / "none.yaml")
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"curency": "USD"}))
    with pytest.raises(SetupError, match=r"wrong\.yaml: source: is missing"):
        reader(tmp_path / "wrong.yaml")
    (tmp_path / "wrong.yaml").write_text("a: [")
    with pytest.raises(SetupError, match="is not YAML"):
        reader(tmp_path / "wrong.yaml")
