"""Which models a pipeline needs, and who fetches those that are missing."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from rich.console import Console

from classifiers import BaseClassifier, SetupError
from classifiers.weights.finding import ModelRef
from graph.plan.plan import Plan, load_plan
from serve_app.local import model_downloads as fetching
from serve_app.local.model_downloads import ModelStatus, download, required_models

SHIPPED = "vit_s14_car_make49"


class Named(BaseClassifier):
    """Uses two models, and fetches those that it does not find by itself."""

    made: ClassVar[list[str]] = []

    def __init__(
        self, model: ModelRef = "owner/name", other: Annotated[ModelRef | None, "optional"] = None, word: str = "x"
    ) -> None:
        self.made.append(model)
        if model == "owner/gone":
            raise SetupError("the hub cannot be reached")

    @property
    def name(self) -> str:
        return "named"

    def process(self, image: Any, context: Mapping[str, Any]) -> dict[str, Any]:
        return {}


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("VISIONGRAPH_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Named, "made", [])


def _plan(*steps: Mapping[str, Any]) -> Plan:
    return load_plan(
        {
            "name": "p",
            "pipeline": [
                {"name": f"step{i}", "class": f"{__name__}.Named", "params": params} for i, params in enumerate(steps)
            ],
        }
    )


def _only(plan: Plan) -> ModelStatus:
    (status,) = required_models(plan)
    return status


def _quiet() -> Console:
    return Console(file=io.StringIO())


def test_models_are_found_by_their_annotations_and_once_each() -> None:
    found = required_models(_plan({}, {"model": SHIPPED, "word": "yolo11n.pt"}, {"other": "yolo11n.pt"}))

    assert [(model.ref, model.steps, model.is_there) for model in found] == [
        ("owner/name", ("step0", "step2"), False),
        (SHIPPED, ("step1",), True),
        ("yolo11n.pt", ("step2",), False),
    ]


@pytest.mark.parametrize(
    ("ref", "source", "licence"),
    [
        ("yolo11s.pt", "ultralytics' releases", "AGPL-3.0"),
        ("owner/name", "Hugging Face hub", None),
        ("nowhere", "this machine", None),
        (
            "centernet_mobilenetv3_coco",
            "ships with visiongraph; from npm @vladmandic/human 3.3.6",
            "MIT",
        ),
    ],
)
def test_says_where_a_model_comes_from(ref: str, source: str, licence: str | None) -> None:
    status = _only(_plan({"model": ref}))

    assert (status.source, status.licence) == (source, licence)


def test_a_model_in_a_folder_of_ones_own_needs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "own" / "mine"
    own.mkdir(parents=True)
    (own / "model.bin").write_bytes(b"12345")
    monkeypatch.setenv("VISIONGRAPH_MODELS", str(own.parent))

    status = _only(_plan({"model": "mine"}))

    assert (status.is_there, status.size_bytes) == (True, 5)


def test_the_hubs_own_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "try_to_load_from_cache", lambda ref, file, revision: f"/hub/{ref}/{revision}/{file}")

    assert _only(_plan({"model": "owner/name"})).is_there


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\n---\n# A model", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: theirs\n---\n", "theirs"),
        ("---\nlicense: [\n---\n", None),
        ("# No card", None),
        (None, None),
    ],
)
def test_the_model_card_says_the_licence(
    tmp_path: Path, card: str | None, licence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_hub = functools.partial(fetching.try_to_load_from_cache, cache_dir=tmp_path / "hub")
    monkeypatch.setattr(fetching, "try_to_load_from_cache", in_hub)
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--owner--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "models--owner--name" / "refs").mkdir()
    (tmp_path / "hub" / "models--owner--name" / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    if card is not None:
        (snapshot / "README.md").write_text(card)

    at_hub = _only(_plan({"model": "owner/name"}))
    local = _only(_plan({"model": str(snapshot)}))

    assert (at_hub.is_there, at_hub.licence, at_hub.revision) == (True, licence, commit)
    assert at_hub.size_bytes == local.size_bytes == 2 + len(card or "")
    assert (local.source, local.licence, local.revision) == ("this machine", licence, None)


def test_what_is_there_is_not_downloaded() -> None:
    download(required_models(_plan({"model": SHIPPED})), _quiet())

    assert Named.made == []


def test_other_models_are_fetched_by_their_classifier() -> None:
    download(required_models(_plan({"model": "owner/name"})), _quiet())

    assert Named.made == ["owner/name"]


def test_what_its_classifier_says_is_passed_on() -> None:
    with pytest.raises(SetupError, match="the hub cannot be reached"):
        download(required_models(_plan({"model": "owner/gone"})), _quiet())
