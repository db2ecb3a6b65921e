"""The pipeline files that ship with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from graph.plan.plan import load_plan
from serve_app.local.model_downloads import required_models

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["demo", "street"])
def test_loads_without_a_mistake_and_without_a_note(name: str) -> None:
    plan = load_plan(CONFIGS / f"{name}.yaml")

    assert plan.name == name
    assert plan.notes == ()


def test_the_demo_downloads_no_model() -> None:
    models = {model.ref: model for model in required_models(load_plan(CONFIGS / "demo.yaml"))}

    assert set(models) == {"centernet_mobilenetv3_coco", "vit_s14_car_make49"}
    assert all(model.is_there and "ships with visiongraph" in model.source for model in models.values())


@pytest.mark.parametrize("name", ["demo", "street"])
def test_every_parameter_and_serve_option_is_explained(name: str) -> None:
    seen: set[str] = set()
    for line in (CONFIGS / f"{name}.yaml").read_text().splitlines():
        code, _, comment = line.partition("  #")
        key = code.strip().partition(":")[0]
        if code.startswith("      ") and key:
            assert comment or key in seen, line
            seen.add(key)
