"""The README's classifier, in a package outside the project: in process and on Serve, as the README says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from toys import encoded

from graph import VisionPipeline
from serve_app.rendering.serve_file import render

_README = Path(__file__).parents[2] / "README.md"
_EXAMPLE = re.compile(r"<!-- example: (?P<file>[\w.]+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL)

NIGHT = np.zeros((8, 8, 3), np.uint8)
DAY = NIGHT + 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The README's files, in a folder on the import path."""
    folder = tmp_path_factory.mktemp("example")
    for example in _EXAMPLE.finditer(_README.read_text(encoding="utf-8")):
        (folder / example["file"]).write_text(example["text"])
    with pytest.MonkeyPatch.context() as environment:
        environment.syspath_prepend(folder)
        yield folder


def test_it_is_short(folder: Path) -> None:
    lines = [line for name in ("night.py", "night.yaml") for line in (folder / name).read_text().splitlines() if line]
    assert len(lines) < 30


def test_in_process(folder: Path) -> None:
    with VisionPipeline(folder / "night.yaml") as pipeline:
        labels = [pipeline.run(image)["context"]["day_or_night"]["label"] for image in (NIGHT, DAY)]
    assert labels == ["night", "day"]


@pytest.mark.slow
def test_on_serve(folder: Path, serve_deploy: Callable[[str], httpx.Client], monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import serve

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
    with serve_deploy(render(folder / "night.yaml")) as client:
        answers = [
            client.post("/v1/images", content=encoded(image), headers={"Content-Type": "image/png"}).json()
            for image in (NIGHT, DAY)
        ]
    assert [answer["context"]["day_or_night"]["label"] for answer in answers] == ["night", "day"]
    serve.delete("night", _blocking=False)
