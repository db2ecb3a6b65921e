"""The plan: neighbours, who cuts whose crops, notes, and digests."""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import classifiers
import graph.plan.digests
from graph.pipeline_file.loading import load
from graph.pipeline_file.serve_options import ServeConfig
from graph.pipeline_file.split import merge, structure, tunables
from graph.plan.plan import Plan, load_plan

CARS = "detection['class_name'] == 'car'"
CONDITION = "'car' in context['det']['detected_classes']"


def step(name: str, kind: str = "zoo.Keeper", **keys: Any) -> dict[str, Any]:
    return {"name": name, "class": kind, **keys}


def plan(*steps: dict[str, Any], **keys: Any) -> Plan:
    return load_plan({"pipeline": list(steps), **keys})


DET, TWO = step("det", "zoo.Detector"), step("two", "zoo.Detector")


def test_a_step_is_planned() -> None:
    import zoo

    made = plan(
        step("make", "zoo.Make", depends_on="det", params={"makes": 3}, condition=CONDITION, timeout_ms=1500),
        DET,
        name="demo",
    )
    assert (made.name, made.roots, len(made)) == ("demo", ("det",), 2)
    assert [step.name for step in made] == ["make", "det"]
    make, det = made.steps
    assert (make.cls, make.class_path, make.params) == (zoo.Make, "zoo.Make", {"makes": 3})
    assert make.condition is not None
    assert make.condition(context={"det": {"detected_classes": ["car"]}}, image={})
    assert make.crops is not None
    assert make.crops.source == zoo.Make.default_crops
    assert (make.timeout_s, make.on_error, make.serve, make.dependents) == (1.5, "skip", ServeConfig(), ())
    assert (det.timeout_s, det.on_error, det.crops, det.dependents, det.cuts) == (
        None,
        "fail",
        None,
        ("make",),
        ("make",),
    )
    assert made["make"] is make
    with pytest.raises(KeyError):
        made["mak"]


def test_on_error_as_written_counts() -> None:
    made = plan({**DET, "on_error": "skip"}, step("a", depends_on="det", on_error="fail"))
    assert [step.on_error for step in made] == ["skip", "fail"]


def test_a_plan_does_not_change() -> None:
    made = plan(DET)
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.notes = ()  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made["det"].timeout_s = 3  # type: ignore[misc]


def test_a_plan_can_be_pickled_and_made_again() -> None:
    made = plan(DET, step("make", "zoo.Make", depends_on="det", params={"makes": 3}, condition=CONDITION))
    again = pickle.loads(pickle.dumps(made))
    assert (again.steps, again.config, again.structure_digest) == (made.steps, made.config, made.structure_digest)
    assert again.step_digest("make") == made.step_digest("make")
    from_config = load_plan(made.config)
    assert (from_config.steps, from_config.structure_digest) == (made.steps, made.structure_digest)


def test_levels() -> None:
    made = plan(
        step("last", depends_on=["mid", "det"]),
        step("mid", depends_on="det"),
        DET,
        step("side", depends_on="det"),
        TWO,
    )
    assert made.levels() == (("det", "two"), ("mid", "side"), ("last",))


# ---- who cuts


@pytest.mark.parametrize(
    ("keys", "det_cuts", "two_cuts"),
    [
        ({"depends_on": "det", "crops": CARS}, True, False),
        ({"depends_on": "det"}, False, False),
        ({"depends_on": "det", "crops": None}, False, False),
        ({"depends_on": "det", "crops": CARS, "condition": "context['det']['x']"}, True, False),
        ({"depends_on": "det", "crops": "detection['class_name'] in context['det']['x']"}, True, False),
        ({"depends_on": ["det", "two"], "crops": CARS}, True, True),
        ({"depends_on": ["det", "two"], "crops": CARS, "crops_from": "two"}, False, True),
        ({"depends_on": ["det", "two"], "crops": CARS, "condition": "context['two']['x']"}, True, True),
        ({"depends_on": ["det", "two"], "crops": "detection['class_name'] in context['det']['x']"}, True, False),
        (
            {
                "depends_on": ["det", "two"],
                "crops": "detection['class_name'] in context['det']['x']",
                "crops_from": "two",
            },
            False,
            False,
        ),
    ],
)
def test_a_step_cuts_for_those_whose_rule_reads_nothing_else(
    keys: dict[str, Any], det_cuts: bool, two_cuts: bool
) -> None:
    made = plan(DET, TWO, step("a", **keys))
    assert ("a" in made["det"].cuts, "a" in made["two"].cuts) == (det_cuts, two_cuts)


def test_a_step_that_looks_at_crops_has_no_detections_to_cut_from() -> None:
    made = plan(DET, step("face", depends_on="det", crops=CARS), step("eye", depends_on=["det", "face"], crops=CARS))
    assert made["det"].cuts == ("face", "eye")
    assert made["face"].cuts == ()


# ---- notes

AGAIN = "gets the encoded image and decodes it again"


@pytest.mark.parametrize(
    ("steps", "notes"),
    [
        ([DET], []),
        ([DET, step("a", depends_on="det", crops=CARS)], []),
        ([DET, step("a", depends_on="det", crops=CARS), step("b", depends_on=["det", "a"], crops=CARS)], []),
        ([DET, TWO], [f"step 'two' {AGAIN}: it has no dependencies, as 'det'"]),
        (
            [DET, step("a", depends_on="det")],
            [f"step 'a' {AGAIN}: it has no crop rule, so it looks at the whole image"],
        ),
        (
            [
                DET,
                step("b", depends_on=["det", "a"], crops="context['a']['x']"),
                step("a", depends_on="det", crops=CARS),
            ],
            [f"step 'b' {AGAIN}: its crop rule reads the result of 'a', so no other step can cut its crops"],
        ),
        (
            [DET, step("a", depends_on="det", crops=CARS), step("b", depends_on="a", crops=CARS)],
            [
                (
                    "step 'b' will fail: all it depends on looks at crops itself and has no detections; "
                    "add the step that detects to depends_on"
                )
            ],
        ),
        (
            [
                DET,
                step("a", depends_on="det", crops=CARS),
                step("b", depends_on=["det", "a"], crops=CARS, crops_from="a"),
            ],
            [
                (
                    "step 'b' will fail: 'a', which `crops_from` names, looks at crops itself and has no detections; "
                    "name the step that detects"
                )
            ],
        ),
        (
            [DET, TWO, step("b", depends_on=["det", "two"], crops=CARS)],
            [
                f"step 'two' {AGAIN}: it has no dependencies, as 'det'",
                ("step 'b' fails when more than one of 'det', 'two' has detections; choose one with `crops_from`"),
            ],
        ),
        (
            [DET, TWO, step("b", depends_on=["det", "two"], crops=CARS, crops_from="two")],
            [f"step 'two' {AGAIN}: it has no dependencies, as 'det'"],
        ),
    ],
)
def test_notes(steps: list[dict[str, Any]], notes: list[str]) -> None:
    assert list(plan(*steps).notes) == notes


def test_rules_that_read_metadata_share_what_one_step_may_do() -> None:
    reads = {"condition": "image['metadata'] != {}"}

    def operations(*keys: dict[str, Any]) -> list[int]:
        return [made.rule_operations for made in plan(DET, *[step(f"s{n}", **more) for n, more in enumerate(keys)])]

    assert operations({}, {"condition": "True"}, reads) == [30_000] * 4
    assert operations(reads, {"crops": "image != {}", "depends_on": "det"}, {}) == [30_000, 15_000, 15_000, 30_000]
    assert operations(*[reads] * 20) == [30_000] + [5_000] * 20


# ---- digests

MAKE = step("make", "zoo.Make", depends_on=["det"], params={"makes": 3}, condition=CONDITION, crops=CARS)
SECOND = step("second", "zoo.Detector")
PAIRS = [("confidence", 0.5), ("half", True)]
BASE = [DET, SECOND, MAKE]


def changed(**keys: Any) -> list[dict[str, Any]]:
    return [DET, SECOND, {**MAKE, **keys}]


@pytest.mark.parametrize(
    ("steps", "of_step"),
    [
        (changed(name="other"), False),
        (changed(**{"class": "zoo.Detector", "params": {"model": "3"}}), True),
        (changed(params={"makes": 4}), True),
        (changed(params={"makes": 3, "confidence": 0.25}), True),
        (changed(depends_on=["det", "second"]), False),
        (changed(condition=None), False),
        (changed(condition=f"{CONDITION} and True"), False),
        (changed(crops="True"), False),
        (changed(crops=None), False),
        (changed(crops_from="det"), False),
        (changed(on_error="fail"), False),
        ([SECOND, DET, MAKE], False),
        ([DET, MAKE], False),
    ],
)
def test_what_decides_a_result_changes_the_digest(steps: list[dict[str, Any]], of_step: bool) -> None:
    before, after = plan(*BASE), plan(*steps)
    assert after.structure_digest != before.structure_digest
    assert (after.step_digest(after.steps[-1].name) != before.step_digest("make")) is of_step


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"depends_on": "det"},
        {"timeout_ms": 5},
        {"on_error": "skip"},
        {"serve": {"num_gpus": 1, "max_batch_size": 3}},
        {"params": {"makes": 3}},
        {"condition": f"  {CONDITION}\n"},
    ],
)
def test_what_does_not_leaves_it(keys: dict[str, Any]) -> None:
    before = plan(*BASE)
    after = plan(*changed(**keys), name="other", limits={"max_bytes": 5})
    assert after.structure_digest == before.structure_digest
    assert len(after.structure_digest) == 64


def test_the_order_of_params_does_not_count() -> None:
    one, other = (plan(step("a", "zoo.Detector", params=dict(pairs))) for pairs in (PAIRS, PAIRS[::-1]))
    assert one.structure_digest == other.structure_digest


def test_the_class_s_own_crop_rule_and_the_same_rule_in_the_file_are_the_same() -> None:
    own = step("make", "zoo.Make", depends_on="det", params={"makes": 3})
    written = {**own, "crops": "detection['class_name'] in ('car', 'truck')"}
    assert plan(DET, own).structure_digest == plan(DET, written).structure_digest


def test_a_file_and_its_structure_with_tunables_have_the_same_digest(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(
        "pipeline:\n"
        "  - {name: det, class: zoo.Detector, params: {model: ./m.pt, confidence: 0.5}}\n"
        f'  - {{name: a, class: zoo.Keeper, depends_on: det, crops: "{CARS}"}}\n'
    )
    config = load(path)
    merged = load_plan(merge(structure(config), tunables(config)))
    assert merged.structure_digest == load_plan(path).structure_digest


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of its own that can be changed, with a base class in another."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "digest_base.py").write_text("from zoo import Keeper\nclass Base(Keeper): ...\n")
    (tmp_path / "digest_leaf.py").write_text("from digest_base import Base\nclass Leaf(Base): ...\n")
    (tmp_path / "digest_other.py").write_text("")
    yield tmp_path
    forget()


def forget() -> None:
    for name in ("digest_base", "digest_leaf"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("file", "differs"), [("leaf", True), ("base", True), ("other", False)])
def test_the_code_of_a_class_and_of_its_bases_is_part_of_it(plug_in: Path, file: str, differs: bool) -> None:
    before = plan(step("a", "digest_leaf.Leaf"))
    with (plug_in / f"digest_{file}.py").open("a") as stream:
        stream.write("# changed\n")
    forget()
    shutil.rmtree(plug_in / "__pycache__", ignore_errors=True)
    after = plan(step("a", "digest_leaf.Leaf"))
    assert (after.step_digest("a") != before.step_digest("a")) is differs
    assert (after.structure_digest != before.structure_digest) is differs


def forget_digests() -> None:
    graph.plan.digests._own_code.cache_clear()
    graph.plan.digests.code_digest.cache_clear()


CLASS = "from zoo import Keeper\nclass Leaf(Keeper): ...\n"
LAZY = "def f():\n    import digest_helper\n"


@pytest.mark.parametrize(
    ("files", "name", "changed", "differs"),
    [
        # a package: all of it, whether it is seen to be imported or not
        ({"__init__": "", "cars": CLASS, "helper": ""}, "digest_pkg.cars", "helper.py", True),
        ({"__init__": "", "cars": CLASS, "sub/__init__": "", "sub/deep": ""}, "digest_pkg.cars", "sub/deep.py", True),
        ({"__init__": "", "a/__init__": "", "a/cars": CLASS, "b": ""}, "digest_pkg.a.cars", "b.py", True),
        ({"__init__": CLASS}, "digest_pkg", "labels.json", True),
        ({"__init__": CLASS}, "digest_pkg", "sub/names.txt", True),
        ({"__init__": CLASS}, "digest_pkg", "notes.md", False),
        ({"__init__": CLASS}, "digest_pkg", "__pycache__/old.py", False),
        ({"__init__": CLASS}, "digest_pkg", ".cache/some.json", False),
        # a module by itself, or in a folder without an __init__: what it imports
        ({"../digest_pkg": "import digest_helper\n" + CLASS}, "digest_pkg", "../digest_helper.py", True),
        ({"../digest_pkg": "from digest_helper import *\n" + CLASS}, "digest_pkg", "../digest_helper.py", True),
        ({"../digest_pkg": CLASS + LAZY}, "digest_pkg", "../digest_helper.py", True),
        ({"../digest_pkg": CLASS, "../digest_helper": ""}, "digest_pkg", "../digest_helper.py", False),
        ({"../digest_pkg": "import digest_helper\n" + CLASS}, "digest_pkg", "../digest_more.py", True),
        ({"__init__": "", "cars": CLASS + LAZY}, "digest_pkg.cars", "../digest_helper.py", True),
        ({"cars": "from digest_pkg import helper\n" + CLASS, "helper": ""}, "digest_pkg.cars", "helper.py", True),
        ({"cars": "from . import helper\n" + CLASS, "helper": ""}, "digest_pkg.cars", "helper.py", True),
        ({"cars": "from .helper import x\n" + CLASS, "helper": "x = 1\n"}, "digest_pkg.cars", "helper.py", True),
        ({"cars": "import digest_pkg.helper\n" + CLASS, "helper": ""}, "digest_pkg.cars", "helper.py", True),
        ({"cars": CLASS, "helper": ""}, "digest_pkg.cars", "helper.py", False),
    ],
)
@pytest.mark.parametrize("installed", [False, True])
def test_what_code_is_part_of_it(
    files: dict[str, str],
    name: str,
    changed: str,
    differs: bool,
    installed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tmp_path / "site-packages" if installed else tmp_path
    monkeypatch.syspath_prepend(str(root))
    helpers = {"../digest_helper": "import digest_more\n", "../digest_more": ""}
    for file, text in (helpers | files).items():
        path = root / "digest_pkg" / f"{file}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    before = step_digest(f"{name}.Leaf")
    assert step_digest(f"{name}.Leaf") == before
    path = root / "digest_pkg" / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("changed = 1\nx = 1\n")
    # what is installed and imported counts by its version, unless it is the package of the class
    in_package = "__init__" in files and not changed.startswith("../")
    assert (step_digest(f"{name}.Leaf") != before) is (differs and (in_package or not installed))


def test_a_package_in_a_zip_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "plug.zip"))
    digests = []
    for helper in ("", "changed = 1\n"):
        with zipfile.ZipFile(tmp_path / "plug.zip", "w") as archive:
            archive.writestr("digest_pkg/__init__.py", CLASS)
            archive.writestr("digest_pkg/helper.py", helper)
        digests.append(step_digest("digest_pkg.Leaf"))
    assert digests[0] != digests[1]


def test_the_place_of_a_package_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for place in ("a", "b"):
        package = tmp_path / place / "digest_pkg"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(CLASS)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(package.parent))
            digests.append(step_digest("digest_pkg.Leaf"))
    assert digests[0] == digests[1]


def step_digest(path: str) -> str:
    """Of a class that is imported afresh, as in a new process."""
    for name in [name for name in sys.modules if name.startswith("digest_")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    return plan(step("a", path)).step_digest("a")


def test_decoding_and_cropping_are_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan(DET)
    (tmp_path / "crops.py").write_text("# changed")
    monkeypatch.setattr(classifiers, "__file__", str(tmp_path / "__init__.py"))
    forget_digests()
    after = plan(DET)
    monkeypatch.undo()
    forget_digests()
    assert after.structure_digest != before.structure_digest
    assert plan(DET).structure_digest == before.structure_digest


def test_a_class_without_a_file_has_a_digest_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    import zoo

    module = types.ModuleType("typed_in")
    module.Typed = type("Typed", (zoo.Keeper,), {"__module__": "typed_in"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "typed_in", module)
    assert len(plan(step("a", "typed_in.Typed")).step_digest("a")) == 64


def test_a_plan_says_what_it_is() -> None:
    assert repr(plan(DET, TWO, name="demo")) == "<Plan 'demo': det, two>"


def test_the_user_s_own_file_is_planned(tmp_path: Path) -> None:
    """The four keys of the design, without crops and params."""
    path = tmp_path / "street.yaml"
    path.write_text(
        """
pipeline:
  - name: object_detection
    class: classifiers.objects.ObjectClassifier

  - name: car_make_classification
    class: classifiers.makes.StanfordViT
    depends_on: object_detection
    condition: "'car' in context['object_detection']['detected_classes']"

  - name: tshirt_color_classification
    class: classifiers.attributes.TShirtColorClassifier
    depends_on: object_detection
    condition: "'person' in context['object_detection']['detected_classes']"
"""
    )
    made = load_plan(path)
    makes, colours = "car_make_classification", "tshirt_color_classification"
    assert made.levels() == (("object_detection",), (makes, colours))
    assert made["object_detection"].cuts == (makes, colours)
    assert made.notes == ()
    image = {"width": 10, "height": 10, "metadata": {}}
    for name, right in ((makes, "car"), (makes, "truck"), (colours, "person")):
        rule = made[name].crops
        assert rule is not None
        for class_name in (right, "dog"):
            detection = {"bbox": [0, 0, 5, 5], "confidence": 0.9, "class_id": 0, "class_name": class_name}
            context = {"object_detection": {"detections": [detection], "detected_classes": [class_name]}}
            assert rule(context=context, image=image, detection=detection) is (class_name == right)
