"""Hundreds of pipeline files, each broken in another way: no traceback, and always the step, the key and the line."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graph.pipeline_file.loading import load
from graph.pipeline_file.report import Mistake, PipelineError
from graph.plan.plan import load_plan

GOOD = """\
# A pipeline with every key.
name: street
limits:
  max_bytes: 1000000
  max_pixels: 2000000
pipeline:
  - name: det
    class: zoo.Detector
    params:
      model: m.pt
      confidence: 0.5
      labels: [car, person]
      device: cpu
      size: [320, 320]
    timeout_ms: 900
    on_error: fail
    serve:
      num_cpus: 1
      num_gpus: 0.5
      num_replicas: 2
      max_batch_size: 4
      batch_wait_ms: 1.5
      max_ongoing_requests: 8
      max_queued_requests: 50
      memory_mb: 512
      resources: {a10g: 1}
  - name: make
    class: zoo.Make
    params:
      makes: 20
      confidence: 0.25
    depends_on: det
    condition: "'car' in context['det']['detected_classes']"
    crops: "detection['class_name'] == 'car' and detection['confidence'] > 0.4"
    crops_from: det
    timeout_ms: 500
    on_error: skip
    serve:
      num_gpus: 0.25
      autoscaling:
        min_replicas: 1
        max_replicas: 4
        initial_replicas: 2
        target_ongoing_requests: 3
        upscale_delay_s: 5
        downscale_delay_s: 60
  - name: colour
    class: zoo.Keeper
    decode: reduced
    depends_on:
      - det
      - make
    condition: len(context['det']['detections']) > 0
    crops:
    serve:
      colocate_with: make
"""

ARGUMENTS = ("model", "confidence", "labels", "device", "size", "makes")

Path_ = tuple[str | int, ...]
NOT_TEXT: tuple[Any, ...] = (3, True, 1.5, ["a"], {"a": 1})
NOT_NUMBER: tuple[Any, ...] = ("many", True, [1], {"a": 1})
NOT_LIST: tuple[Any, ...] = ("a", 3, True, {"a": 1})
NOT_MAPPING: tuple[Any, ...] = ("a", 3, True, [1], None)

# For each key, what it must not be: wrong types, and values out of range.
BAD_VALUES: dict[Path_, tuple[Any, ...]] = {
    ("name",): (*NOT_TEXT, "", "x" * 101),
    ("limits",): NOT_MAPPING,
    ("limits", "max_bytes"): (*NOT_NUMBER, None, 0, -1, 1.5),
    ("limits", "max_pixels"): (*NOT_NUMBER, None, 0),
    ("pipeline",): (*NOT_LIST, None, []),
    ("pipeline", 0): ("det", 3, None, ["name"], True),
    ("pipeline", 0, "name"): (
        *NOT_TEXT,
        None,
        "",
        "a b",
        "1a",
        "-a",
        "é",
        "detection",
        "gateway",
        "worker",
        "make",
        "a" * 101,
    ),
    ("pipeline", 0, "class"): (
        *(*NOT_TEXT, None, "", "Detector", "zoo.", ".zoo", "zoo..Detector", "zoo:Detector", "../zoo.Detector"),
        *(
            "zoo.Detecter",
            "zou.Detector",
            "no_such.Thing",
            "zoo.function",
            "zoo.ready",
            "zoo.Zoo",
            "zoo.Half",
            "json.dumps",
        ),
        *("zoo.CropsNoText", "zoo.TunablesText", "zoo.TunablesUnknown", "os.path", "zoo.Detector.name"),
    ),
    ("pipeline", 0, "params"): NOT_MAPPING,
    ("pipeline", 0, "params", "model"): (3, True, None, ["a"], {"a": 1}),
    ("pipeline", 0, "params", "confidence"): (*NOT_NUMBER, None, "0.5", 1.01, -0.1),
    ("pipeline", 0, "params", "labels"): ("car", 3, {"a": 1}),
    ("pipeline", 0, "params", "device"): ("gpu", 3, None, True),
    ("pipeline", 0, "params", "size"): ("big", 3, {"a": 1}),
    ("pipeline", 1, "params", "makes"): (*NOT_NUMBER, None, 1.5),
    ("pipeline", 1, "depends_on"): (3, None, True, {"a": 1}, "dat", "make", ["det", "det"], ["nobody"], "colour"),
    ("pipeline", 1, "condition"): (
        *(*NOT_TEXT, "", " ", "1 +", "x", "import os", "__import__('os')", "context.det", "image.width", "print(1)"),
        *("lambda: 1", "context['dat']['x']", "context['colour']['x']", "context['make']['x']", "context", "(" * 200),
        *("detection['x']", "f'{image}'", "context['det'].__class__", "[].append(1)", "a = 1", "open('x')", "yield 1"),
    ),
    ("pipeline", 1, "crops"): (*NOT_TEXT, "", "detection.x", "context['nobody']['x']", "crop['x']", "detection['x'] ="),
    ("pipeline", 1, "crops_from"): (*NOT_TEXT, "", "dat", "colour", "make"),
    ("pipeline", 1, "timeout_ms"): (*NOT_NUMBER, 0, -5, 1.5, "500"),
    ("pipeline", 1, "on_error"): ("ignore", "Skip", 3, True, ["skip"], {"a": 1}),
    ("pipeline", 0, "serve"): NOT_MAPPING,
    ("pipeline", 0, "serve", "num_cpus"): (*NOT_NUMBER, None, -1),
    ("pipeline", 0, "serve", "num_gpus"): (*NOT_NUMBER, None, -1, 1.5, 2.25),
    ("pipeline", 0, "serve", "num_replicas"): (*NOT_NUMBER, 0, 1.5),
    ("pipeline", 0, "serve", "max_batch_size"): (*NOT_NUMBER, None, 0, 2.5),
    ("pipeline", 0, "serve", "batch_wait_ms"): (*NOT_NUMBER, None, -1),
    ("pipeline", 0, "serve", "max_ongoing_requests"): (*NOT_NUMBER, 0, 3),
    ("pipeline", 0, "serve", "max_queued_requests"): (*NOT_NUMBER, 0),
    ("pipeline", 0, "serve", "memory_mb"): (*NOT_NUMBER, 0),
    ("pipeline", 0, "serve", "resources"): (*NOT_MAPPING, {"GPU": 1}, {"a": -1}),
    ("pipeline", 1, "serve", "autoscaling"): ("a", 3, True, [1]),
    ("pipeline", 1, "serve", "autoscaling", "min_replicas"): (*NOT_NUMBER, None, -1),
    ("pipeline", 1, "serve", "autoscaling", "max_replicas"): (*NOT_NUMBER, None, 0),
    ("pipeline", 1, "serve", "autoscaling", "initial_replicas"): (*NOT_NUMBER, -1, 9),
    ("pipeline", 1, "serve", "autoscaling", "target_ongoing_requests"): (*NOT_NUMBER, 0),
    ("pipeline", 1, "serve", "autoscaling", "upscale_delay_s"): (*NOT_NUMBER, None, -1),
    ("pipeline", 1, "serve", "autoscaling", "downscale_delay_s"): (*NOT_NUMBER, None, -1),
    ("pipeline", 2, "decode"): (*NOT_TEXT, None, "", "half", "Reduced"),
    ("pipeline", 2, "serve", "colocate_with"): (*NOT_TEXT, "", "ingress", "gateway", "mak", "colour", "nobody"),
    ("pipeline", 2, "depends_on"): ("det", ["det", "colour"]),  # a rule reads `det`; `crops: null` needs no detections
    ("pipeline", 2, "depends_on", 1): (3, None, "", "mak", "det"),
}
STILL_RIGHT = {("pipeline", 2, "depends_on", "det")}

# Keys without which the file is wrong.
REQUIRED: tuple[Path_, ...] = (
    ("pipeline",),
    ("pipeline", 0, "name"),
    ("pipeline", 1, "class"),
    ("pipeline", 1, "params", "makes"),
    ("pipeline", 1, "serve", "autoscaling", "max_replicas"),
)

# Text put in the place of other text, for what is wrong before there is any data: (old, new, step, key).
TEXT_BREAKS: tuple[tuple[str, str, str | None, str], ...] = (
    ("    timeout_ms: 900", "\ttimeout_ms: 900", "det", "timeout_ms"),
    ("    timeout_ms: 900", "  timeout_ms: 900", "det", "timeout_ms"),
    ("    timeout_ms: 900", "     timeout_ms: 900", "det", "timeout_ms"),
    ("    timeout_ms: 900", "    timeout_ms: 900\n    timeout_ms: 900", "det", "timeout_ms"),
    ("    timeout_ms: 900", "    timeout_ms: !!python/name:os.system ''", "det", "timeout_ms"),
    ("    timeout_ms: 900", "    timeout_ms: *nothing", "det", "timeout_ms"),
    ("    timeout_ms: 900", "    timeout_ms: &x [*x]", "det", "timeout_ms[0]"),
    ("    timeout_ms: 900", "    timeout_ms: .inf", "det", "timeout_ms"),
    ("    timeout_ms: 900", "    timeout_ms: @900", "det", "timeout_ms"),
    ("    timeout_ms: 900", "    timeout_ms 900", "det", "timeout_ms"),
    ("      device: cpu", "      device: cpu: 1", "det", "device"),
    ("      device: cpu", '      device: "cpu', "det", "device"),
    ("      device: cpu", "      device: {cpu", "det", "device"),
    ("      device: cpu", "      device: cpu\n      device: cuda", "det", "params.device"),
    ("      device: cpu", "      device: cpu\n      7: 7", "det", "params.7"),
    ("[320, 320]", "[320, 320", "det", "size"),
    ("[320, 320]", "320, 320]", "det", "params.size"),
    ("{a10g: 1}", "{a10g: 1", "det", "resources"),
    ("  - name: make", "  - name: 'make", "make", "name"),
    ("  - name: make", "   - name: make", "make", "name"),
    ("  - name: make", " - name: make", "make", "name"),
    ("  - name: make", "  -name: make", "make", "name"),
    (
        "\"'car' in context['det']['detected_classes']\"",
        "'car' in context['det']['detected_classes']",
        "make",
        "condition",
    ),
    ("\"'car' in context['det']['detected_classes']\"", '"car" in context["det"]["x"]', "make", "condition"),
    (
        "    serve:\n      num_gpus: 0.25",
        "    serve:\n      timeout_ms: 3\n      num_gpus: 0.25",
        "make",
        "serve.timeout_ms",
    ),
    (
        "    serve:\n      num_gpus: 0.25",
        "    serve:\n      num_replicas: 1\n      num_gpus: 0.25",
        "make",
        "serve.num_replicas",
    ),
    ("name: street", "name: street\n---", None, "name"),
    ("name: street", "name: street\nname: road", None, "name"),
    ("name: street", "name: \x07", None, "name"),
    ("limits:", "limits: &a\n  <<: *a", None, "limits"),
)


@dataclass(frozen=True)
class Broken:
    """A broken file and the mistake that must be found in it.

    ``rows``: what one of must stand on the line of the mistake.
    """

    text: str
    step: str | None
    key: str
    why: str
    rows: tuple[str, ...]


def altered(path: Path_, change: Callable[[Any, Any], None]) -> str:
    data = copy.deepcopy(yaml.safe_load(GOOD))
    parent = data
    for part in path[:-1]:
        parent = parent[part]
    change(parent, path[-1])
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def place(path: Path_, name: object = None) -> tuple[str | None, str]:
    """The step and key that a mistake at ``path`` is reported for."""
    if path[0] != "pipeline" or len(path) == 1:
        return None, ".".join(map(str, path))
    steps = [step["name"] for step in yaml.safe_load(GOOD)["pipeline"]]
    step = steps[int(path[1])]
    if path[2:] == ("name",) or len(path) == 2:
        step = name if isinstance(name, str) and name and len(path) > 2 else f"pipeline[{path[1]}]"
    inner = [part for part in path[2:] if isinstance(part, str)]
    return step, ".".join(inner) or "pipeline"


def broken_files() -> Iterator[Broken]:
    for path, values in BAD_VALUES.items():
        for value in values:
            if (*path, value) in [(*right,) for right in STILL_RIGHT if not isinstance(value, list | dict)]:
                continue

            def put(parent: Any, key: Any, value: Any = value) -> None:
                parent[key] = value

            rows = ("- ", f"{path[-2]}:") if isinstance(path[-1], int) else (f"{path[-1]}:", "- nobody")
            yield Broken(altered(path, put), *place(path, value), f"{path} is {value!r}", rows)
    for path in REQUIRED:
        rows = {1: ("name: street",), 3: ("- name: ", "- class: ")}.get(
            len(path), (f"{path[-2]}:" if path[1:] else "",)
        )
        yield Broken(altered(path, lambda parent, key: parent.pop(key)), *place(path), f"{path} is missing", rows)
    for path in BAD_VALUES:
        if not isinstance(path[-1], str):
            continue
        for wrong in (f"{path[-1]}s", path[-1].upper(), f"x-{path[-1]}"):
            if len(path) == 1 and wrong.startswith("x-"):
                continue  # keys for anchors

            def rename(parent: Any, key: Any, wrong: str = wrong) -> None:
                for name, value in list(parent.items()):
                    parent[wrong if name == key else name] = parent.pop(name)
                    del value

            step, key = place((*path[:-1], "x"))
            text = altered(path, rename)
            if path[-1] == "name" and len(path) > 1:
                step = f"pipeline[{path[1]}]"
            # the class hands on what it does not know, so that only what it needs is missed
            called = "makes" if path[-1] == "makes" else wrong
            row = "params:" if called == "makes" else f"{called}:"
            yield Broken(text, step, f"{key[:-1]}{called}", f"{path} is called {wrong}", (row,))
    for old, new, step, key in TEXT_BREAKS:
        assert old in GOOD, old
        yield Broken(GOOD.replace(old, new, 1), step, key, f"{old!r} is {new!r}", tuple(new.split("\n")))


FILES = list(broken_files())


def mistakes_in(text: str, folder: Path) -> tuple[Mistake, ...]:
    path = folder / "broken.yaml"
    path.write_text(text)
    with pytest.raises(PipelineError) as caught:
        load(path)
    check_form(caught.value, path, text)
    return caught.value.mistakes


def check_form(error: PipelineError, path: Path, text: str) -> None:
    """What is true of every mistake."""
    assert error.mistakes
    assert str(error).split("\n") == [str(mistake) for mistake in error.mistakes]
    for mistake in error.mistakes:
        assert mistake.file == str(path)
        assert mistake.message
        assert mistake.step is None or mistake.key is not None
        if mistake.line is None:
            assert str(mistake).startswith(f"{path}: ")
        else:
            assert 1 <= mistake.line <= text.count("\n") + 1
            assert str(mistake).startswith(f"{path}:{mistake.line}: ")
        for leaked in ("Traceback", "pydantic", "Input should", "validation error", "NoneType"):
            assert leaked not in str(mistake)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    assert load_plan(path).levels() == (("det",), ("make",), ("colour",))
    path.write_text(yaml.safe_dump(yaml.safe_load(GOOD)))
    assert len(load_plan(path)) == 3


def test_there_are_many_of_them() -> None:
    assert len({broken.text for broken in FILES}) >= 400


@pytest.mark.parametrize("broken", FILES, ids=lambda broken: broken.why[:60])
def test_a_broken_file(broken: Broken, tmp_path: Path) -> None:
    mistakes = mistakes_in(broken.text, tmp_path)
    assert all(mistake.line is not None and mistake.key is not None for mistake in mistakes)
    found = [mistake for mistake in mistakes if mistake.step == broken.step and matches(mistake.key, broken.key)]
    assert found, f"{broken.why}: no mistake for step {broken.step!r}, key {broken.key!r} in {list(map(str, mistakes))}"
    row = broken.text.split("\n")[(found[0].line or 0) - 1]
    assert any(part in row for part in broken.rows), f"line {found[0].line} is {row!r}, not one of {broken.rows}"


def matches(found: str | None, wanted: str) -> bool:
    """``params.labels[1]`` is about ``params.labels``."""
    return found is not None and (found == wanted or found.startswith((f"{wanted}[", f"{wanted}.")))


def test_several_mistakes_in_one_file_are_all_reported(tmp_path: Path) -> None:
    """A mistake in the first step and one in the second, of each kind at least once."""
    first = [path for path in BAD_VALUES if path[:2] == ("pipeline", 0) and len(path) > 3]
    others = [path for path in BAD_VALUES if path[:2] == ("pipeline", 1) and len(path) > 2]
    for one, other in zip(itertools.cycle(first), others, strict=False):
        data = yaml.safe_load(GOOD)
        for path in (one, other):
            parent = data
            for part in path[:-1]:
                parent = parent[part]
            parent[path[-1]] = BAD_VALUES[path][-1]
        found = {(mistake.step, mistake.key) for mistake in mistakes_in(yaml.safe_dump(data), tmp_path)}
        for path in (one, other):
            step, key = place(path)
            assert any(name == step and matches(where, key) for name, where in found), (one, other, found)


def test_a_file_that_is_wrong_everywhere_has_all_its_mistakes(tmp_path: Path) -> None:
    data = yaml.safe_load(GOOD)
    paths = [path for path in BAD_VALUES if path[:1] == ("pipeline",) and len(path) > 2 and path[2] != "name"]
    leaves = [path for path in paths if not any(other[: len(path)] == path and other != path for other in paths)]
    for path in leaves:
        parent = data
        for part in path[:-1]:
            parent = parent[part]
        parent[path[-1]] = BAD_VALUES[path][0]
    found = {(mistake.step, mistake.key) for mistake in mistakes_in(yaml.safe_dump(data), tmp_path)}
    for path in leaves:
        step, key = place(path)
        if path[2] == "params" and ("pipeline", path[1], "class") in leaves:
            continue  # without the class nobody knows what it takes
        assert any(name == step and matches(where, key) for name, where in found), (path, sorted(found))


# ---- anything at all

EDITS = st.tuples(
    st.integers(0, len(GOOD)),
    st.integers(0, 30),
    st.sampled_from(
        [
            *(
                "",
                " ",
                "\n",
                "\t",
                ":",
                ": ",
                "- ",
                "'",
                '"',
                "{",
                "}",
                "[",
                "]",
                "#",
                "&a ",
                "*a",
                "<<: *a",
                "!!x ",
                "|",
                ">",
            ),
            *(
                "? ",
                "%",
                "@",
                "---\n",
                "...\n",
                "~",
                "1e999",
                "0x",
                "\x00",
                "\x85",
                "\u2028",
                "\ufeff",
                "é",
                "\\",
                "context",
            ),
            *(
                "det",
                "make",
                "depends_on: make\n",
                "class: zoo.Half\n",
                "name: det\n",
                "None",
                ",",
                "0777777",
                "-",
                "999999999999",
            ),
        ]
    ),
)


def error_of(source: Any) -> PipelineError | None:
    """Anything else that is raised fails the test."""
    try:
        load_plan(source)
    except PipelineError as error:
        return error
    return None


def only_pipeline_errors(text: str, path: Path) -> None:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    error = error_of(path)
    if error is not None:
        check_form(error, path, re.sub("[\r\x85\u2028\u2029]", "\n", text))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(EDITS, min_size=1, max_size=6))
def test_edited_text_is_a_pipeline_or_a_pipeline_error(tmp_path: Path, edits: list[tuple[int, int, str]]) -> None:
    text = GOOD
    for start, length, new in edits:
        text = text[:start] + new + text[start + length :]
    only_pipeline_errors(text, tmp_path / "edited.yaml")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_any_text_is_a_pipeline_error(tmp_path: Path, text: str) -> None:
    only_pipeline_errors(text, tmp_path / "any.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*BAD_VALUES, *REQUIRED]), VALUES), min_size=1, max_size=4))
def test_any_values_are_a_pipeline_or_a_pipeline_error(changes: list[tuple[Path_, Any]]) -> None:
    data = yaml.safe_load(GOOD)
    for path, value in changes:
        parent = data
        for part in path[:-1]:
            try:
                parent = parent[part]
            except (TypeError, LookupError):  # an earlier change took it away
                break
        if isinstance(parent, dict):
            parent[path[-1]] = value
    error = error_of(data)
    assert error is None or error.mistakes
