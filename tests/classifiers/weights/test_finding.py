from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import pytest

from classifiers.weights import finding as models
from classifiers.weights.finding import LocalPath, ModelRef, digest_weights, find_model, model_not_found, search_places


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The four folders that a relative name is looked for in, all of them empty."""
    made = {name: tmp_path / name for name in ("cwd", "configured", "cache", "package")}
    made["cache"] = tmp_path / "cache" / "models"
    for folder in made.values():
        folder.mkdir(parents=True)
    monkeypatch.chdir(made["cwd"])
    monkeypatch.setenv("VISIONGRAPH_MODELS", str(made["configured"]))
    monkeypatch.setenv("VISIONGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "__file__", str(made["package"] / "models.py"))
    return {"cwd": made["cwd"], "configured": made["configured"], "cache": made["cache"], "shipped": made["package"]}


@pytest.mark.parametrize("where", ["cwd", "configured", "cache", "shipped"])
def test_a_model_is_found_in_each_place(folders: dict[str, Path], where: str) -> None:
    (folders[where] / "tiny.pt").write_bytes(b"weights")

    assert find_model("tiny.pt") == (folders[where] / "tiny.pt")


def test_the_places_are_tried_in_order(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        (folder / "org").mkdir()
        (folder / "org" / "model").mkdir()

    found = []
    for folder in folders.values():
        found.append(find_model("org/model") == (folder / "org" / "model"))
        (folder / "org" / "model").rmdir()

    assert found == [True] * 4
    assert find_model("org/model") is None


def test_an_absolute_path_is_looked_for_only_there(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.pt").touch()

    assert find_model(str(tmp_path / "a.pt")) == (tmp_path / "a.pt")
    assert find_model(str(tmp_path / "b.pt")) is None
    assert search_places(str(tmp_path / "b.pt")) == [tmp_path / "b.pt"]


def test_home_and_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VISIONGRAPH_CACHE", raising=False)
    (tmp_path / "mine.pt").touch()

    assert models.cache_folder() == tmp_path / ".cache" / "visiongraph"
    assert find_model("~/mine.pt") == (tmp_path / "mine.pt")


@pytest.mark.parametrize("ref", ["", "  "])
def test_no_name_is_no_model(ref: str) -> None:
    assert find_model(ref) is None


def test_not_found_says_where_and_what_to_do(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    error = model_not_found("org/model", "hf download org/model")

    assert str(error).startswith("model 'org/model' was not found; looked at\n")
    assert str(error).endswith("\nfix: hf download org/model")
    assert all(str(folder / "org/model") in str(error) for folder in folders.values())
    assert error.fields["model"] == "org/model"
    assert error.fields["looked_at"] == [str(folder / "org/model") for folder in folders.values()]
    assert "not set" not in str(error)

    monkeypatch.delenv("VISIONGRAPH_MODELS")
    assert "VISIONGRAPH_MODELS is not set" in str(model_not_found("org/model", "fix"))
    absolute = str(model_not_found("/none/model", "fix", missing="config.json"))
    assert absolute == "config.json of model '/none/model' was not found; looked at\n  /none/model\nfix: fix"


def test_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"weights")

    assert digest_weights(tmp_path / "a.pt") == hashlib.sha256(b"weights").hexdigest()


def test_digest_of_a_folder_covers_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, bytes]) -> Path:
        for relative, content in files.items():
            (tmp_path / name / relative).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / relative).write_bytes(content)
        return tmp_path / name

    base = {"config.json": b"{}", "sub/model.bin": b"1234"}
    digest = digest_weights(folder("base", base))

    assert digest_weights(folder("same", dict(reversed(base.items())))) == digest
    assert digest_weights(folder("notes", base | {".cache/seen": b"1", "sub/.lock": b""})) == digest
    assert digest_weights(folder("extra", base | {"README.md": b"hi"}), names=base.keys()) == digest
    different = [
        folder("extra", {}),
        folder("content", base | {"config.json": b"[]"}),
        folder("renamed", {"config2.json": b"{}", "sub/model.bin": b"1234"}),
        folder("moved", {"config.json": b"{}", "model.bin": b"1234"}),
        folder("shifted", {"config.json": b"{}1", "sub/model.bin": b"234"}),
    ]
    assert len({digest, *map(digest_weights, different)}) == 6


def test_model_ref_carries_the_marker() -> None:
    text, marker = get_args(ModelRef)

    assert text is str
    assert isinstance(marker, LocalPath)
    assert repr(marker) == "LocalPath()"
