from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toys import draw, encoded

PRICES = Path(__file__).parents[3] / "serve_app" / "planning" / "prices.yaml"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "street.yaml"
    path.write_text("""
pipeline:
  - name: detect
    class: toys.Blobs
  - name: colour
    class: toys.MeanColour
    depends_on: detect
    condition: "'person' in context['detect']['detected_classes']"
    crops: "detection['class_name'] == 'person'"
""")
    return path


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(draw(("person", 10, 10, 50, 90), ("person", 60, 10, 90, 90))))
    (folder / "b.png").write_bytes(encoded(draw(("car", 10, 10, 90, 50))))
    (folder / "c.png").write_bytes(encoded(draw(("person", 10, 10, 50, 90))))
    (folder / "d.png").write_bytes(encoded(draw()))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_sample_says_how_often_each_step_runs(visiongraph: Run, pipeline: Path, sample: Path, tmp_path: Path) -> None:
    common = ("plan", pipeline, "--images-per-day", "10e6", "--peak", "5", "--prices", PRICES)
    saved = tmp_path / "measured.yaml"
    code, out, err = visiongraph(*common, "--sample", sample, "--save-measurements", saved, "--json")
    assert code == 0, err
    planned = json.loads(out)
    assert planned["measured"]["images"] == 4
    assert planned["measured"]["failed"] == 1
    assert planned["steps"]["detect"]["share_of_images"] == 1
    assert planned["steps"]["colour"]["share_of_images"] == 0.5
    assert planned["steps"]["colour"]["crops_per_image"] == {"mean": 1.5, "p50": 1, "p99": 2}
    assert planned["peak_images_per_s"] == pytest.approx(5e7 / 86_400)
    assert planned["bottleneck"]["images_per_s"] >= planned["peak_images_per_s"]
    code, out, _ = visiongraph(*common, "--measurements", saved, "--json")
    again = json.loads(out)
    assert again["deployments"] == planned["deployments"]  # what was saved is what was used
    code, out, _ = visiongraph(*common, "--measurements", saved)
    assert code == 0
    assert "bottleneck" in out
    assert "'colour' ran on only 2 of 4 images" in out
    code, out, _ = visiongraph(*common, "--measurements", saved, "--picture")
    assert '-->|"289 images/s, 1.5 crops each"|' in out


def test_nonsense_gets_a_message(visiongraph: Run, pipeline: Path, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    common = ("plan", pipeline, "--prices", PRICES)
    for arguments, message in (
        (("--images-per-day", "10e6", "--sample", tmp_path / "empty"), "the sample has no images"),
        (("--images-per-day", "10e6", "--peak", "0", "--sample", sample), "the peak is the highest rate"),
        (("--images-per-day", "0", "--sample", sample), "images per day must be above 0"),
        (("--images-per-day", "10e6"), "--sample or --measurements"),
        (("--images-per-day", "10e6", "--sample", sample, "--prices", tmp_path / "no.yaml"), "cannot read the prices"),
    ):
        code, _, err = visiongraph(*common, *arguments)
        assert code == 2
        assert message in err


def test_a_step_that_never_ran_is_an_error(visiongraph: Run, pipeline: Path, sample: Path) -> None:
    for name in ("a.png", "c.png"):
        (sample / name).unlink()
    code, _, err = visiongraph("plan", pipeline, "--images-per-day", "10e6", "--sample", sample, "--prices", PRICES)
    assert code == 2
    assert "'colour' never ran on the 2 images of the sample" in err


def test_a_sample_in_which_all_images_fail_is_an_error(visiongraph: Run, pipeline: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    code, _, err = visiongraph(
        "plan", pipeline, "--images-per-day", "1e6", "--sample", tmp_path / "bad", "--prices", PRICES
    )
    assert code == 2
    assert "all 1 images of the sample failed" in err
