"""The scripts that make the models: what can be checked without training anything."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from models import build_ssd, train_car_make, train_detector


@pytest.mark.parametrize("script", [build_ssd, train_car_make, train_detector], ids=lambda script: script.__name__)
def test_has_help(script: ModuleType) -> None:
    result = CliRunner().invoke(script.app, ["--help"])

    assert result.exit_code == 0
    assert "Usage" in result.output


def test_anchors_are_those_of_mediapipe() -> None:
    anchors = build_ssd._anchors()

    assert anchors.shape == (1917, 4)
    # row by row, three in each cell of the first map
    np.testing.assert_allclose(anchors[: 19 * 3, 0], 0.5 / 19, rtol=1e-6)
    np.testing.assert_allclose(anchors[19 * 3, :2], [1.5 / 19, 0.5 / 19], rtol=1e-6)
    np.testing.assert_allclose(anchors[0], [0.5 / 19, 0.5 / 19, 0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(anchors[1, 2:], [0.2 / 2**0.5, 0.2 * 2**0.5], rtol=1e-6)
    np.testing.assert_allclose(anchors[-1], [0.5, 0.5, 0.95**0.5, 0.95**0.5], rtol=1e-6)


def test_the_best_threshold_is_the_one_with_the_best_f1() -> None:
    seen = [
        build_ssd.Seen("car", confidence, right)
        for confidence, right in [(0.9, True), (0.8, True), (0.5, False), (0.4, True), (0.3, False), (0.2, False)]
    ]

    assert build_ssd._best_threshold(seen, objects=3) == 0.4
    assert build_ssd._best_threshold(seen, objects=2) == 0.8


def test_offsets_bring_the_thresholds_together() -> None:
    seen = [build_ssd.Seen("person", 0.25, right=True), build_ssd.Seen("car", 0.5, right=True)]

    offsets = build_ssd._fit_offsets(seen, {"person": 1, "car": 1}, ["person", "car", "vehicle", "dog"])

    # logit(0.25) - logit(0.5); dogs, which have no labels, get what fits both
    np.testing.assert_allclose(offsets, [0, np.log(1 / 3), np.log(1 / 3), 0], atol=1e-6)


def test_the_head_needs_no_standardised_features() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    vectors = torch.randn(60, 8, generator=generator) + 5
    vectors[torch.arange(60), labels] += 4

    weight, bias = train_car_make._fit(vectors, labels)

    assert ((vectors @ weight + bias).argmax(1) == labels).float().mean() > 0.95


def test_a_data_set_is_linked_and_not_written_to(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split in ("train", "val"):
        for kind, name in (("images", "1.jpg"), ("labels", "1.txt")):
            (data / split / kind).mkdir(parents=True)
            (data / split / kind / name).write_text(kind)
    (data / "data.yaml").write_text(yaml.safe_dump({"path": ".", "names": {0: "person"}}))
    before = sorted(data.rglob("*"))

    file = train_detector._link_data_set(data, tmp_path / "out")

    about = yaml.safe_load(file.read_text())
    assert about["names"] == {0: "person"}
    assert (Path(about["path"]) / about["train"] / "1.jpg").read_text() == "images"
    assert sorted(data.rglob("*")) == before
