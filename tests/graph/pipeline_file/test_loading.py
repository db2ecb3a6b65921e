"""Reading pipeline files: what each mistake says, where it stands, and that all of them are found at once."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePosixPath
from textwrap import dedent
from typing import Any

import pytest

from graph.pipeline_file.loading import load
from graph.pipeline_file.report import Mistake, PipelineError
from graph.pipeline_file.schema import PipelineConfig
from graph.plan.plan import load_plan

Write = Callable[..., Path]
DET = {"name": "det", "class": "zoo.Detector"}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "pipeline.yaml") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text))
        return path

    return write


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that can be imported in this test."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dedent(text))
        return path

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def mistakes_of(source: Any) -> tuple[Mistake, ...]:
    with pytest.raises(PipelineError) as caught:
        load(source)
    return caught.value.mistakes


def lines_of(source: Path) -> list[str]:
    """The mistakes as they are printed, without the folder."""
    return [str(mistake).replace(f"{source.parent}/", "") for mistake in mistakes_of(source)]


def only(*steps: dict[str, Any]) -> Mistake:
    (mistake,) = mistakes_of({"pipeline": list(steps)})
    return mistake


# ---- a file that is right

GOOD = """
    pipeline:
      - name: det
        class: zoo.Detector        # a comment
        params: {confidence: 1e-1, size: [3, 0x10]}
      - name: make
        class: zoo.Make
        params: &makes
          makes: 1_000
        depends_on: det
        condition: "'car' in context['det']['detected_classes']"
        crops: >
          detection['class_name'] in ('car', 'truck')
          and detection['confidence'] >= 0.4
      - name: again
        class: zoo.Make
        params: {<<: *makes, confidence: .5}
        depends_on: [det]
        crops:
"""


def test_a_file_is_read(write: Write) -> None:
    config = load(write(GOOD, "street.yaml"))
    assert config.name == "street"
    det, make, again = config.pipeline
    assert det.params == {"confidence": 0.1, "size": [3, 16]}
    assert make.params == {"makes": 1000}
    assert make.crops == "detection['class_name'] in ('car', 'truck') and detection['confidence'] >= 0.4\n"
    assert again.params == {"confidence": 0.5, "makes": 1000}
    assert again.crops_given
    assert again.crops is None


def test_a_path_may_be_a_text_and_the_file_have_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes("\ufeffname: käse\npipeline: [{name: det, class: zoo.Detector}]".encode())
    assert load(str(path)).name == "käse"


def test_a_mapping_and_a_configuration_are_read_too() -> None:
    config = load({"pipeline": ({**DET, "params": {"model": PurePosixPath("a/b.pt"), "size": (1, 2)}},)})
    assert config.name == "pipeline"
    assert config.pipeline[0].params == {"model": "a/b.pt", "size": [1, 2]}
    assert load(config) == config


def test_texts_of_other_types_become_plain() -> None:
    class Device(str, Enum):  # noqa: UP042
        CPU = "cpu"

    config = load({"pipeline": [{**DET, "params": {"device": Device.CPU}}]})
    assert type(config.pipeline[0].params["device"]) is str


def test_a_pipeline_is_called_as_its_file(write: Write) -> None:
    assert load(write("pipeline: [{name: det, class: zoo.Detector}]", "a b.yml")).name == "a b"
    assert load(write("name:\npipeline: [{name: det, class: zoo.Detector}]", f"{'x' * 200}.yaml")).name == "x" * 100
    assert load({"name": None, "pipeline": [DET]}).name == "pipeline"
    assert load({"name": "own", "pipeline": [DET]}).name == "own"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2.5E2", -250.0),
        ("1.", 1.0),
        ("+7", 7),
        ("0b11", 3),
        ("0o17", 15),
        ("0", 0),
        ("-0", 0),
        ("0x1F", 31),
        ("16:9", "16:9"),
        ("2024-01-01", "2024-01-01"),
        ("'1'", "1"),
        ("yes", True),
        ("OFF", False),
        ("~", None),
        ("", None),
        ("!!str 3", "3"),
        ("!!float 3", 3.0),
        ("1.5.2", "1.5.2"),
        ("é", "é"),
    ],
)
def test_what_yaml_texts_mean(write: Write, text: str, value: object) -> None:
    path = write(f"pipeline: [{{name: a, class: zoo.Anything, params: {{x: {text}}}}}]")
    found = load(path).pipeline[0].params["x"]
    assert (found, type(found)) == (value, type(value))


# ---- every error at once


def test_every_mistake_is_told_at_once_with_its_line(write: Write) -> None:
    path = write(
        """\
        pipelin: 3
        pipeline:
          - name: det
            class: zoo.Detecter
          - name: make
            class: zoo.Make
            params: {makes: yes}
            depends_on: animl
            condition: "len(context['det']"
            serve:
              num_gpu: 0.25
              timeout_ms: 0
          - class: zoo.Detector
            params:
              confidence: 3
              modle: a.pt
            on_error: skp
          - name: detection
            class: zoo.Make
            params: {makes: 1}
        """
    )
    assert [line.removeprefix("pipeline.yaml:") for line in lines_of(path)] == [
        "1: key 'pipelin': unknown key; did you mean 'pipeline'?",
        "4: step 'det', key 'class': module 'zoo' has no 'Detecter'; did you mean 'Detector'?",
        "7: step 'make', key 'params.makes': expected a whole number; got true",
        "8: step 'make', key 'depends_on': unknown step 'animl'; the other steps are 'det', 'detection'",
        (
            "9: step 'make', key 'condition': not a Python expression: '(' was never closed; a rule is one expression, "
            "such as detection['confidence'] >= 0.5 (column 4)"
        ),
        "11: step 'make', key 'serve.num_gpu': unknown key; did you mean 'num_gpus'?",
        "12: step 'make', key 'timeout_ms': must be at least 1; got 0",
        "13: step pipeline[2], key 'name': is missing; write for example `name: object_detection`",
        "15: step pipeline[2], key 'params.confidence': must be at most 1; got 3",
        "16: step pipeline[2], key 'params.modle': Detector has no parameter 'modle'; did you mean 'model'?",
        "17: step pipeline[2], key 'on_error': must be 'fail' or 'skip'; got the string 'skp'; did you mean 'skip'?",
        (
            "18: step 'detection', key 'crops': the class has its own crop rule, and no step gives it detections; add "
            "depends_on, or write `crops: null`"
        ),
        "18: step 'detection', key 'name': 'detection' is reserved; choose another name",
    ]


def test_a_mapping_has_places_for_lines() -> None:
    mistakes = mistakes_of(
        {"pipeline": [DET, {**DET, "name": "b", "depends_on": ["det", "dat"], "serve": {"num_gpus": -1}}]}
    )
    assert list(map(str, mistakes)) == [
        "pipeline[1].depends_on[1]: step 'b', key 'depends_on': unknown step 'dat'; did you mean 'det'?",
        "pipeline[1].serve.num_gpus: step 'b', key 'serve.num_gpus': must be at least 0; got -1",
    ]
    assert mistakes[0] == Mistake(
        None, None, "b", "depends_on", "unknown step 'dat'; did you mean 'det'?", "pipeline[1].depends_on[1]"
    )


def test_the_error_survives_pickling() -> None:
    with pytest.raises(PipelineError) as caught:
        load({"pipeline": []})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.mistakes) == (str(caught.value), caught.value.mistakes)


# ---- one mistake at a time: (keys of the step, key, message)

STEP_MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown key": ({"dependson": "a"}, "dependson", "unknown key; did you mean 'depends_on'?"),
    "argument beside params": (
        {"model": "a.pt"},
        "model",
        "arguments of the class's constructor belong under `params`",
    ),
    "serve key beside serve": ({"num_gpus": 1}, "num_gpus", "unknown key here; it belongs under `serve`"),
    "limit in a step": ({"max_pixels": 1}, "max_pixels", "unknown key"),
    "name with a space": (
        {"name": "a b"},
        "name",
        "must begin with a letter and have only letters, digits, `_` and `-`, for",
    ),
    "short class": (
        {"class": "Detector"},
        "class",
        "must be the dotted path of a class, for example classifiers.objects.Obj",
    ),
    "unknown module": ({"class": "zo.Detector"}, "class", "module 'zo' not found"),
    "misspelt module": ({"class": "zooo.Detector"}, "class", "module 'zooo' not found; did you mean 'zoo'?"),
    "misspelt submodule": ({"class": "classifiers.object.X"}, "class", "did you mean 'classifiers.objects'?"),
    "nowhere": ({"class": "qqqqqqqq.X"}, "class", "module 'qqqqqqqq' not found; is it installed, or on PYTHONPATH?"),
    "module as a package": ({"class": "zoo.Detector.X"}, "class", "'zoo' is a module, not a package"),
    "unknown class": ({"class": "zoo.Cat"}, "class", "module 'zoo' has no 'Cat'; its classifiers: Anything, BadRule"),
    "no classifiers": ({"class": "json.Cat"}, "class", "module 'json' has no 'Cat'"),
    "function": ({"class": "zoo.function"}, "class", "'zoo.function' is a function, not a class"),
    "instance": ({"class": "zoo.ready"}, "class", "'zoo.ready' is a Keeper, not a class"),
    "other class": (
        {"class": "zoo.Zoo"},
        "class",
        "'zoo.Zoo' is not a classifier; derive it from classifiers.BaseClassifier",
    ),
    "incomplete": (
        {"class": "zoo.Half"},
        "class",
        "'zoo.Half' is not complete: it does not define 'name' and 'process'",
    ),
    "base": ({"class": "classifiers.BaseClassifier"}, "class", "it does not define 'name' and 'process'"),
    "default_crops": ({"class": "zoo.CropsNoText"}, "class", "its default_crops must be a string or None; it is a int"),
    "tunables": ({"class": "zoo.TunablesText"}, "class", "its tunables must be a set of argument names"),
    "other tunables": (
        {"class": "zoo.TunablesUnknown"},
        "class",
        "its tunables name 'confidence', which its constructor",
    ),
    "argument": (
        {"params": {"modle": "a"}},
        "params.modle",
        "Detector has no parameter 'modle'; did you mean 'model'?",
    ),
    "arguments": ({"params": {"qqq": 1}}, "params.qqq", "Detector has no parameter 'qqq'; it takes model, confidence,"),
    "no arguments": (
        {"class": "zoo.Keeper", "params": {"a": 1}},
        "params.a",
        "Keeper has no parameter 'a'; it takes none",
    ),
    "missing": ({"class": "zoo.NeedsTunable"}, "params.threshold", "is missing: NeedsTunable needs it (float)"),
    "text for a number": (
        {"params": {"confidence": "0.5"}},
        "params.confidence",
        "expected a number; got the string '0.5'",
    ),
    "true for a number": ({"params": {"confidence": True}}, "params.confidence", "expected a number; got true"),
    "range": ({"params": {"confidence": 1.5}}, "params.confidence", "must be at most 1; got 1.5"),
    "number for a string": ({"params": {"model": 8}}, "params.model", "expected a string; got 8"),
    "choice": (
        {"params": {"device": "cud"}},
        "params.device",
        "must be 'cpu' or 'cuda'; got the string 'cud'; did you mean 'cuda'?",
    ),
    "item": ({"params": {"labels": ["a", 3]}}, "params.labels[1]", "expected a string; got 3"),
    "length": ({"params": {"size": [1]}}, "params.size[1]", "is missing"),
    "no list": ({"params": {"labels": "car"}}, "params.labels", "expected a list; got the string 'car'"),
    "yes": ({"params": {"half": 1}}, "params.half", "expected true or false; got 1"),
    "path": ({"params": {"classes": 3}}, "params.classes", "expected a string; got 3"),
    "union": (
        {"params": {"top": "some"}},
        "params.top",
        "expected Union[int, Literal['all']]; got the string 'some'",
    ),
    "validator": ({"params": {"step": 3}}, "params.step", "must be even; got 3"),
    "broken validator": (
        {"params": {"odd": 3}},
        "params.odd",
        "checking it failed: RuntimeError: a validator that fails",
    ),
    "mapping": ({"params": {"options": {"a": "b"}}}, "params.options.a", "expected a number; got the string 'b'"),
    "no mapping": ({"params": {"options": 3}}, "params.options", "expected keys with values; got 3"),
    "params list": (
        {"params": ["a"]},
        "params",
        "expected keys with values, for example {confidence: 0.25}; got a list",
    ),
    "unknown step": ({"depends_on": "b"}, "depends_on", "unknown step 'b'; there is no other step"),
    "itself": ({"depends_on": ["a"]}, "depends_on", "a step cannot depend on itself; remove its own name"),
    "empty rule": ({"condition": ""}, "condition", "must not be empty"),
    "rule that is no text": ({"condition": True}, "condition", "expected a string, for example \"'car' in context"),
    "rule with an attribute": ({"condition": "image.width > 3"}, "condition", "width"),
    "own result": (
        {"condition": "context['a']['x']"},
        "condition",
        "reads the result of its own step 'a', which does not exist yet",
    ),
    "unknown result": (
        {"condition": "context['b']['x']"},
        "condition",
        "reads unknown step 'b'; this step depends on none",
    ),
    "own detection": ({"condition": "context['detection']['x']"}, "condition", "a condition has no detection"),
    "crops for a root": (
        {"crops": "detection['x']"},
        "crops",
        "needs the detections of another step; add the step that detects",
    ),
    "crops_from nothing": (
        {"crops": None, "crops_from": "b"},
        "crops_from",
        "`crops: null` means the whole image; remove one",
    ),
    "path with a tab": (
        {"class": "toys.Sleeper", "params": {"log": "C:\temp.log"}},
        "params.log",
        "a path has no control characters; got 'C:\\temp.log'; in double quotes a backslash begins an escape",
    ),
    "power of powers": (
        {"condition": "9**9**9**9 > 1"},
        "condition",
        "OverflowError: a whole number is larger than 2**64 in the constant 9**9**9**9 > 1 (column 1)",
    ),
    "long constant": (
        {"condition": "image['width'] == 1 or [1]*10**9 == 1"},
        "condition",
        "TypeError: '*' works on numbers only in the constant [1]*10**9 == 1",
    ),
    "more than a day": ({"timeout_ms": 10**400}, "timeout_ms", "must be at most 86400000; got a huge number"),
    "huge": ({"timeout_ms": -(10**40)}, "timeout_ms", "must be at least 1; got a huge number"),
    "long": ({"on_error": "x" * 99}, "on_error", f"must be 'fail' or 'skip'; got the string '{'x' * 57}'..."),
    "long name": ({"name": "x" * 101}, "name", "string should have at most 100 characters"),
    "no JSON": (
        {"params": {"model": {1, 2}}},
        "params.model",
        "a set is not allowed in a pipeline; use the types of JSON",
    ),
    "infinite": ({"params": {"confidence": float("inf")}}, "params.confidence", "must be a finite number; got inf"),
    "number key": ({"params": {"options": {1: 2}}}, "params.options.1", "a key must be a string; write it as '1'"),
}


@pytest.mark.parametrize(("keys", "key", "message"), STEP_MISTAKES.values(), ids=STEP_MISTAKES)
def test_a_mistake_in_a_step(keys: dict[str, Any], key: str, message: str) -> None:
    step = {"name": "a", "class": "zoo.Detector", **keys}
    first = mistakes_of({"pipeline": [step]})[0]
    assert (first.step, first.key) == (step["name"], key)
    assert message in first.message
    assert "Traceback" not in str(first)


@pytest.mark.parametrize(
    ("keys", "key", "message"),
    [
        ({"depends_on": ["dat"]}, "depends_on", "unknown step 'dat'; did you mean 'det'?"),
        (
            {"condition": "context['det']['x']"},
            "condition",
            "which this step does not depend on; add 'det' to depends_on",
        ),
        ({"condition": "context['dat']['x']"}, "condition", "reads unknown step 'dat'; did you mean 'det'?"),
        ({"depends_on": ["det"], "condition": "context['dit']['x']"}, "condition", "did you mean 'det'?"),
        ({"depends_on": ["det"], "crops": "context['detection']['x']"}, "crops", "write detection['class_name']"),
        ({"depends_on": ["det"], "crops_from": "det"}, "crops_from", "but there is no crop rule; add `crops`"),
        ({"depends_on": ["det"], "crops": "True", "decode": "reduced"}, "decode", "cut from full pixels; remove it"),
        (
            {"class": "zoo.Make", "params": {"makes": 1}, "depends_on": ["det"], "decode": "reduced"},
            "decode",
            "cut from full pixels; remove it",
        ),
        ({"depends_on": ["det"], "crops": "detection['x']", "crops_from": "dat"}, "crops_from", "did you mean 'det'?"),
        ({"depends_on": ["det"], "crops": "detection['x']", "crops_from": "x"}, "crops_from", "add 'x' to depends_on"),
        ({"name": "det"}, "name", "two steps are called 'det', the other is number 1; rename one"),
        (
            {"class": "zoo.ReadsOther", "depends_on": []},
            "crops",
            "the class has its own crop rule, and no step gives it",
        ),
        ({"class": "zoo.BadRule", "depends_on": ["det"]}, "crops", "; write `crops` in the file"),
        ({"crops": "1 +", "depends_on": ["det"]}, "crops", "(column "),
    ],
)
def test_a_mistake_between_steps(keys: dict[str, Any], key: str, message: str) -> None:
    step = {"name": "a", "class": "zoo.Keeper", **keys}
    mistake = only(DET, step)
    assert (mistake.step, mistake.key) == (step["name"], key)
    assert message in mistake.message


def test_the_crop_rule_of_a_class_may_read_another_step_only_as_any_rule() -> None:
    step = {"name": "a", "class": "zoo.ReadsOther"}
    assert load({"pipeline": [DET, {**step, "depends_on": "det"}]})
    two = {**DET, "name": "two"}
    message = only(DET, two, {**step, "depends_on": "two"}).message
    assert message.startswith("the class's own crop rule \"detection['class_name'] in context['det']")
    assert message.endswith("write `crops` in the file")


def test_a_rule_that_reads_several_steps_wrongly_names_each() -> None:
    message = only(
        DET, {"name": "a", "class": "zoo.Keeper", "condition": "context['det']['x'] == context['b']['x']"}
    ).message
    assert "reads unknown step 'b'" in message
    assert "and it reads the result of step 'det'" in message


@pytest.mark.parametrize(
    ("edges", "messages"),
    [
        ({"a": "b", "b": "a"}, ["a: a cycle: a -> b -> a; remove one of these dependencies"]),
        ({"c": "b", "b": "a", "a": "c"}, ["c: a cycle: c -> b -> a -> c; remove one of these dependencies"]),
        (
            {"a": "b", "b": "a", "x": "y", "y": "x"},
            [
                "a: a cycle: a -> b -> a; remove one of these dependencies",
                "x: a cycle: x -> y -> x; remove one of these dependencies",
            ],
        ),
        (
            {"r": [], "a": ["r", "b"], "b": ["r", "a"], "z": ["a"]},
            ["a: a cycle: a -> b -> a; remove one of these dependencies"],
        ),
        ({"a": [], "b": "a", "c": ["a", "b"], "d": ["b", "c"]}, []),
    ],
)
def test_cycles_are_printed(edges: dict[str, Any], messages: list[str]) -> None:
    data = {"pipeline": [{"name": name, "class": "zoo.Keeper", "depends_on": on} for name, on in edges.items()]}
    if not messages:
        assert load(data)
        return
    assert [f"{mistake.step}: {mistake.message}" for mistake in mistakes_of(data)] == messages


def test_ten_thousand_steps_in_a_row_do_not_exhaust_the_stack() -> None:
    steps = [{"name": f"s{i}", "class": "zoo.Keeper", "depends_on": f"s{(i + 1) % 3000}"} for i in range(3000)]
    (mistake,) = mistakes_of({"pipeline": steps})
    assert mistake.step == "s0"


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        ({}, "pipeline", "is missing; write for example `pipeline: [{name: object_detection, class: classifiers.obj"),
        ({"pipeline": []}, "pipeline", "must not be empty"),
        ({"pipeline": {"name": "a"}}, "pipeline", "expected a list, for example [{name: object_detection"),
        ({"pipeline": [DET], "name": 3}, "name", "expected a string, for example demo; got 3"),
        ({"pipeline": [DET], "name": ""}, "name", "must not be empty"),
        ({"pipeline": [DET], "limits": {"max_bytes": 0}}, "limits.max_bytes", "must be at least 1; got 0"),
        ({"pipeline": [DET], "limits": {"max_bytes": 2**31}}, "limits.max_bytes", "must be at most 2147483647; got"),
        ({"pipeline": [DET], "limits": {"max_pixels": 200_000_000}}, "limits.max_pixels", "must be at most 178956970"),
        ({"pipeline": [DET], "limits": {"max_frames": "3"}}, "limits.max_frames", "expected a whole number"),
        ({"pipeline": [DET], "limits": None}, "limits", "expected keys with values, for example {max_bytes: 33554432}"),
        ({"pipeline": [DET], "max_bytes": 3}, "max_bytes", "unknown key here; it belongs under `limits`"),
        ({"pipeline": [DET], 3: 3}, "3", "a key must be a string"),
    ],
)
def test_a_mistake_outside_the_steps(data: dict[str, Any], key: str, message: str) -> None:
    (mistake,) = mistakes_of(data)
    assert (mistake.step, mistake.key) == (None, key)
    assert message in mistake.message


def test_a_step_that_is_no_mapping() -> None:
    mistakes = mistakes_of({"pipeline": [DET, "det", None, {**DET, "name": "b", "depends_on": "c"}]})
    assert [(mistake.step, mistake.key) for mistake in mistakes] == [
        ("b", "depends_on"),
        ("pipeline[1]", "pipeline"),
        ("pipeline[2]", "pipeline"),
    ]
    assert mistakes[1].message.startswith("expected keys with values, for example {name: object_detection")


def test_data_that_contains_itself() -> None:
    data: dict[str, Any] = {"pipeline": [DET]}
    data["name"] = data
    assert "nested more than 50 deep" in [mistake.message for mistake in mistakes_of(data)]


# ---- YAML

YAML_MISTAKES = {
    "empty": ("", None, "the file is empty; a pipeline file has the key `pipeline`"),
    "comment": ("# nothing\n", None, "the file is empty; a pipeline file has the key `pipeline`"),
    "list": ("- a\n", 1, "expected a mapping with the key `pipeline`; got a list"),
    "text": ("\nhello\n", 2, "expected a mapping with the key `pipeline`; got the string 'hello'"),
    "tab": ("pipeline:\n\t- name: a\n", 2, "key 'name': a tab; YAML is indented with spaces"),
    "two documents": (
        "name: a\n---\nname: b\n",
        2,
        "key 'name': a second document (`---`); a file has one",
    ),
    "quote": ("pipeline:\n  - name: 'a\n    class: b\n", 2, "key 'name': a quote that is never closed"),
    "after the quote": (
        "pipeline:\n  - name: a\n    condition: 'car' in context['a']\n",
        3,
        "step 'a', key 'condition': text after the closing quote; put the whole value in double quotes",
    ),
    "indentation": (
        "pipeline:\n  - name: a\n   class: b\n",
        3,
        "step 'a', key 'class': does not line up with the lines above; check the indentation",
    ),
    "colon": (
        "pipeline:\n  - name: a\n    params: b: 3\n",
        3,
        "step 'a', key 'params': an unexpected `:`; check the",
    ),
    "brace": (
        "pipeline:\n  - name: a\n    params: {b: 3\n    class: b\n",
        3,
        "a `{` that is not closed, or a comma is missing",
    ),
    "bracket": ("pipeline: [a\nname: b\n", 1, "a `[` that is not closed, or a comma is missing"),
    "late quote": (
        "name: 'a\nlimits:\n  x: 'b'\n",
        1,
        "key 'name': a quote that is closed only on line 3; close it on its own line",
    ),
    "no colon": ("pipeline:\n  - name: a\n    class\n    params: {}\n", 3, "key 'class': a key without `: ` after it"),
    "at sign": (
        "pipeline:\n  - name: @a\n",
        2,
        "key 'name': a character that cannot begin a value; put the value in quotes",
    ),
    "alias": ("pipeline: *steps\n", 1, "key 'pipeline': not YAML: found undefined alias 'steps'"),
    "windows path": (
        'pipeline:\n  - name: a\n    params:\n      model: "C:\\models\\y.pt"\n',
        4,
        "step 'a', key 'model': an unknown escape: a backslash in double quotes begins one; use single quotes, as in",
    ),
    "user's path": (
        'name: "C:\\users"\n',
        1,
        "an unknown escape: a backslash in double quotes begins one; use single quotes",
    ),
    "pattern": ('name: "\\d+"\n', 1, "an unknown escape: a backslash in double quotes begins one; use single quotes"),
    "control character": ("name: a\npipeline: \x01\n", 2, "the character '\\x01' is not allowed in YAML; remove it"),
    "escape": ('name: "\\UFFFFFFFF"\n', None, "not YAML"),
    "directive": ("%x\n", 2, "not YAML: expected '<document start>'"),
    "deep": ("a: " + "[" * 1000, None, "nested too deeply"),
}


@pytest.mark.parametrize(("text", "line", "message"), YAML_MISTAKES.values(), ids=YAML_MISTAKES)
def test_text_that_is_no_pipeline_at_all(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    (mistake,) = mistakes_of(path)
    assert mistake.line == line
    assert message in str(mistake)


VALUE_MISTAKES = {
    "twice": ("name: a\nname: b", 2, "key 'name': duplicate key 'name' (first on line 1); keep one"),
    "twice in quotes": ("name: a\n'name': b", 2, "key 'name': duplicate key 'name' (first on line 1); keep one"),
    "twice in brackets": (
        "name: a\nlimits: {max_bytes: 1, max_bytes: 2}",
        2,
        "duplicate key 'max_bytes' (first on line 2)",
    ),
    "twice in a list": (
        "pipeline:\n - {name: a}\n - {name: b, 'name': c}",
        3,
        "duplicate key 'name' (first on line 3)",
    ),
    "twice in an anchor": ("x-a: &a {max_bytes: 1, max_bytes: 2}\nlimits: *a", 1, "key 'x-a.max_bytes': duplicate key"),
    "twice by an alias": ("x-k: &k name\n*k : a\nname: b", 3, "duplicate key 'name' (first on line 1)"),
    "two merges": (
        "x-a: &a {max_bytes: 1}\nlimits:\n  <<: *a\n  <<: *a",
        4,
        "duplicate key '<<' (first on line 3); keep one",
    ),
    "octal": (
        "name: 017",
        1,
        "key 'name': '017' cannot be read as int; write it in quotes if it is a string, and without a leading zero",
    ),
    "bool": ("name: no", 1, "expected a string, for example demo; got false; put it in quotes if it is a string"),
    "version": ("name: 1.10", 1, "got 1.1; put it in quotes if it is a string"),
    "twice in a step": (
        "pipeline:\n - name: a\n   class: zoo.Keeper\n   name: b",
        4,
        "step 'a', key 'name': duplicate key 'name' (first on line 2)",
    ),
    "tag": (
        "name: !!python/object:os.system x",
        1,
        "key 'name': the tag !!python/object:os.system is not allowed; remove it",
    ),
    "local tag": ("name: !x y", 1, "key 'name': the tag !x is not allowed; remove it"),
    "set": ("name: !!set {a, b}", 1, "key 'name': the tag !!set is not allowed; remove it"),
    "binary": ("name: !!binary aGk=", 1, "key 'name': the tag !!binary is not allowed; remove it"),
    "not a number": ("name: .nan", 1, "key 'name': must be a finite number; got .nan"),
    "infinity": ("name: -.INF", 1, "key 'name': must be a finite number; got -.INF"),
    "too big": ("name: 1e999", 1, "key 'name': must be a finite number; got 1e999"),
    "many digits": (f"name: {'9' * 5000}", 1, f"key 'name': '{'9' * 40}' cannot be read as int"),
    "no int": ("name: !!int x", 1, "key 'name': 'x' cannot be read as int; write it in quotes if it is a string"),
    "no bool": ("name: !!bool x", 1, "key 'name': 'x' cannot be read as bool"),
    "number key": ("1: a", 1, "key '1': a key must be a string; write it in quotes: \"1\""),
    "list key": ("? [a]\n: b", 1, "a key must be a string, not a list or a mapping"),
    "half a character": ('name: "\\ud800"', 1, "key 'name': has a character that is not Unicode; remove it"),
    "half a key": ('"\\ud800": 1', 1, "a key has a character that is not Unicode; remove it"),
    "itself": ("name: &a [*a]", 1, "key 'name[0]': contains itself through an alias (*name); write it out"),
    "merged text": ("<<: a", 1, "key '<<': must be an alias (*name) of another mapping, or a list of aliases"),
    "merged in itself": ("limits: &a\n  <<: *a", 2, "must be an alias (*name) of another mapping"),
    "merged in its merge": ("limits: &a {<<: [*a]}", 1, "must be an alias (*name) of another mapping"),
}


@pytest.mark.parametrize(("text", "line", "message"), VALUE_MISTAKES.values(), ids=VALUE_MISTAKES)
def test_values_that_cannot_be_read(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    found = [(mistake.line, str(mistake)) for mistake in mistakes_of(path) if message in str(mistake)]
    assert [where for where, _ in found] == [line]


@pytest.mark.parametrize("key", ["name", "limits"])
def test_nothing_is_said_twice_about_a_value_that_cannot_be_read(tmp_path: Path, key: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"{key}: !x y\npipeline: [{{name: det, class: zoo.Detector}}]")
    assert len(mistakes_of(path)) == 1


def test_a_pipeline_whose_only_step_is_wrong_is_not_called_empty() -> None:
    assert only({**DET, "timeout_ms": 0}).key == "timeout_ms"


def test_the_line_is_that_of_the_key_where_the_value_stands_below(write: Write) -> None:
    path = write(
        """\
        pipeline:
          - name: det
            class: zoo.Detector
            condition:
              image.width
        """
    )
    assert [mistake.line for mistake in mistakes_of(path)] == [4]


def test_a_merge_gives_what_the_mapping_does_not_have(write: Write) -> None:
    path = write(
        """
        pipeline:
          - &one
            name: one
            class: zoo.Detector
            params: &small {confidence: 0.1}
            serve: &cheap {num_cpus: 0.5}
          - {<<: *one, name: two}
          - name: three
            class: zoo.Detector
            params: {<<: [*small, {confidence: 0.9, model: m}]}
            serve: *cheap
        """
    )
    _, two, three = load(path).pipeline
    assert (two.class_path, two.params) == ("zoo.Detector", {"confidence": 0.1})
    assert three.params == {"confidence": 0.1, "model": "m"}
    assert three.serve.num_cpus == 0.5


def test_a_merge_may_merge(write: Write) -> None:
    path = write(
        """
        x-small: &small {confidence: 0.1, half: true}
        x-smaller: &smaller
          confidence: 0.05
          <<: *small
        pipeline:
          - {name: det, class: zoo.Detector, params: {<<: *smaller}}
        """
    )
    assert load(path).pipeline[0].params == {"confidence": 0.05, "half": True}


def test_keys_that_begin_with_x_are_for_anchors(write: Write) -> None:
    path = write(
        """
        x-cheap: &cheap {num_cpus: 0.5}
        x-notes: [anything, 1]
        pipeline:
          - {name: det, class: zoo.Detector, serve: *cheap}
        """
    )
    config = load(path)
    assert config.pipeline[0].serve.num_cpus == 0.5
    assert not [key for key in config.to_dict() if key.startswith("x-")]
    assert load({"pipeline": [DET], "x-notes": 1}) == load({"pipeline": [DET]})
    assert only({**DET, "x-notes": 1}).key == "x-notes"


def test_merges_that_multiply_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph.pipeline_file.yaml_reader.MAX_VALUES", 1_000)
    rows = ["a0: &a0 {x: 1, y: 2}"] + [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
    (mistake,) = mistakes_of(write("\n".join(rows)))
    assert "more than 1,000 values after aliases (*name) are expanded" in mistake.message


def test_aliases_that_multiply_are_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph.pipeline_file.yaml_reader.MAX_VALUES", 1_000)
    rows = ["a: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (mistake,) = mistakes_of(write("\n".join(rows)))
    assert "more than 1,000 values after aliases (*name) are expanded" in mistake.message


# ---- files


def test_a_file_that_is_not_there(write: Write) -> None:
    path = write(GOOD, "demo.yaml")
    write(GOOD, "notes.txt")
    assert lines_of(path.with_name("dem.yaml")) == ["dem.yaml: no such file; did you mean 'demo.yaml'?"]
    assert lines_of(path.with_name("street.yaml")) == ["street.yaml: no such file; in that folder are demo.yaml"]
    assert "there is no folder" in lines_of(path.parent / "configs" / "demo.yaml")[0]


def test_an_empty_folder_has_nothing_to_offer(tmp_path: Path) -> None:
    assert lines_of(tmp_path / "a.yaml") == ["a.yaml: no such file"]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert lines_of(tmp_path / "a.yaml") == ["a.yaml: no such file"]


def test_a_folder_is_no_file(write: Write) -> None:
    path = write(GOOD)
    assert mistakes_of(path.parent)[0].message == "is a folder; name a file in it: pipeline.yaml"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in mistakes_of("a\0b")[0].message
    assert "cannot be read" in mistakes_of(tmp_path / ("x" * 300))[0].message


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph.pipeline_file.loading.MAX_FILE_BYTES", 2048)
    path = tmp_path / "big.yaml"
    path.write_text("#" * 2049)
    assert mistakes_of(path)[0].message == "has more than 2 KiB; is it a pipeline file?"


def test_a_file_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: a\n# caf\xe9\n")
    (mistake,) = mistakes_of(path)
    assert (mistake.line, mistake.message) == (2, "byte 13 is not UTF-8; save the file as UTF-8")


# ---- paths in params


def test_paths_are_relative_to_the_file(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "here.pt").touch()
    path = write(
        """
        pipeline:
          - name: one
            class: zoo.Detector
            params:
              model: models/here.pt
              classes: ./absent.txt
              labels: [./a, models/here.pt]
              extra_models: [models/here.pt, nowhere.pt, ../up.pt]
              anything: {deep: ["./b"], dot: ".", plain: models}
          - {name: two, class: zoo.Detector, params: {model: nowhere.pt, classes: /etc/hosts}}
          - {name: three, class: zoo.Make, params: {makes: 1, model: models}, crops: null}
        """,
        "configs/p.yaml",
    )
    monkeypatch.chdir(tmp_path)
    one, two, three = load(Path("configs/p.yaml")).pipeline
    assert one.params == {
        "model": f"{folder}/models/here.pt",
        "classes": f"{folder}/absent.txt",
        "labels": [f"{folder}/a", "models/here.pt"],
        "extra_models": [f"{folder}/models/here.pt", "nowhere.pt", f"{tmp_path}/up.pt"],
        "anything": {"deep": [f"{folder}/b"], "dot": str(folder), "plain": "models"},
    }
    assert two.params == {"model": "nowhere.pt", "classes": "/etc/hosts"}
    assert three.params["model"] == f"{folder}/models"
    assert load(path) == load(load(path).to_dict())


def test_a_link_keeps_its_name(write: Write, tmp_path: Path) -> None:
    (tmp_path / "blob").touch()
    (tmp_path / "model.onnx").symlink_to("blob")
    config = load(write("pipeline: [{name: a, class: zoo.Detector, params: {model: model.onnx}}]"))
    assert config.pipeline[0].params["model"] == f"{tmp_path}/model.onnx"


def test_paths_in_a_mapping_stay_as_they_are() -> None:
    data = {"pipeline": [{**DET, "params": {"model": "./a.pt"}}]}
    assert load(data).pipeline[0].params == {"model": "./a.pt"}


@pytest.mark.parametrize("value", ["", " ", "x" * 5000])
def test_texts_that_are_no_file_names(write: Write, value: str) -> None:
    path = write(f"pipeline: [{{name: a, class: zoo.Detector, params: {{model: '{value}'}}}}]")
    assert load(path).pipeline[0].params["model"] == value


# ---- constructors


def test_what_a_constructor_takes_is_handed_on_as_its_types() -> None:
    params = {
        "size": [3, 4],
        "classes": "a.txt",
        "confidence": 1,
        "zoo": "any",
        "share": "1/3",
        "home": "x",
        "top": "all",
    }
    (step,) = load_plan({"pipeline": [{**DET, "params": params}]})
    assert step.params == {**params, "size": (3, 4), "classes": Path("a.txt"), "confidence": 1.0}
    assert isinstance(step.params["confidence"], float)


def test_a_constructor_that_takes_anything_gets_anything() -> None:
    (step,) = load_plan({"pipeline": [{"name": "a", "class": "zoo.Anything", "params": {"x": [1, {"y": None}]}}]})
    assert step.params == {"x": [1, {"y": None}]}


def test_other_kinds_of_constructors(module: Write) -> None:
    module(
        "kinds.py",
        """
        from dataclasses import dataclass
        from pydantic import BaseModel
        from typing import Optional, TypedDict
        from zoo import Keeper

        class Options(BaseModel):
            top: int

        @dataclass
        class Data(Keeper):
            top: int
            low: "float" = 3.0

        class Taking(Keeper):
            def __init__(self, options: Options, later: "Later" = None, exact: {"no": "type"} = None): ...

        class Slots(Keeper):
            __init__ = object.__init__

        class Empty(Keeper):
            def __init__(self, **rest): super().__init__(**rest)
        """,
    )

    def first(kind: str, **params: Any) -> str:
        return mistakes_of({"pipeline": [{"name": "a", "class": f"kinds.{kind}", "params": params}]})[0].message

    assert first("Data") == "is missing: Data needs it (int)"
    assert first("Data", top="x") == "expected a whole number; got the string 'x'"
    assert first("Data", top=1, low="x") == "expected a number; got the string 'x'"
    assert first("Taking", options={"top": "x"}) == "expected a whole number; got the string 'x'"
    assert first("Taking") == "is missing: Taking needs it (kinds.Options)"
    assert load({"pipeline": [{"name": "a", "class": "kinds.Empty", "params": {"a": 1}}]})
    assert first("Slots", a=1) == "Slots has no parameter 'a'; it takes none"
    (step,) = load_plan(
        {
            "pipeline": [
                {"name": "a", "class": "kinds.Taking", "params": {"options": {"top": 3}, "later": 1, "exact": 2}}
            ]
        }
    )
    assert step.params["options"].top == 3


def test_a_missing_argument_is_described(module: Write) -> None:
    module(
        "demanding.py",
        """
        from collections.abc import Sequence
        from pathlib import Path
        from typing import Annotated, Literal, Mapping, Optional, Union
        from pydantic import Field
        from zoo import Keeper, Zoo

        class Demanding(Keeper):
            def __init__(
                self,
                a: Path,
                b: list[str],
                c: dict,
                d: Optional[int],
                e: Literal["x", "y"],
                f: Annotated[float, Field(ge=0)],
                g: Zoo,
                h: {"no": "type"},
                i,
                j: Sequence[Path],
                k: Mapping[str, bool],
                l: Union[str, list],
                m: "no type at all",
            ): ...
        """,
    )
    mistakes = mistakes_of({"pipeline": [{"name": "a", "class": "demanding.Demanding"}]})
    needs = "is missing: Demanding needs it"
    assert [mistake.message.removeprefix(needs) for mistake in mistakes] == [
        " (pathlib.Path)",
        " (list[str])",
        " (dict)",
        " (Optional[int])",
        " (Literal['x', 'y'])",
        " (float)",
        " (zoo.Zoo)",
        " ({'no': 'type'})",
        "",
        " (collections.abc.Sequence[pathlib.Path])",
        " (Mapping[str, bool])",
        " (Union[str, list])",
        "",
    ]


def test_what_a_class_hands_to_its_base_is_its_own_affair(module: Write) -> None:
    """It may give what the base needs, or take a string and hand on a number."""
    module(
        "handing.py",
        """
        from zoo import Detector, NeedsTunable

        class Gives(NeedsTunable):
            def __init__(self, **rest): super().__init__(threshold=0.5, **rest)

        class Converts(Detector):
            def __init__(self, **rest):
                rest["confidence"] = float(rest["confidence"].strip("%")) / 100
                super().__init__(**rest)
        """,
    )
    gives = {"name": "a", "class": "handing.Gives"}
    converts = {"name": "b", "class": "handing.Converts", "params": {"confidence": "50%"}}
    made = load_plan({"pipeline": [gives, converts]})
    assert [step.cls(**step.params).name for step in made] == ["keeper", "keeper"]


def test_an_argument_that_was_misspelt_is_offered_where_the_class_takes_any() -> None:
    mistake = only(DET, {"name": "a", "class": "zoo.Make", "depends_on": "det", "params": {"makess": 3}})
    assert mistake.message == "is missing: Make needs it (int); is it 'makess'?"


# ---- modules


def test_what_a_module_prints_does_not_reach_stdout(module: Write, capsys: pytest.CaptureFixture[str]) -> None:
    module("loud.py", "print('hello')\nfrom zoo import Keeper\nclass Loud(Keeper): ...")
    assert load({"pipeline": [{"name": "a", "class": "loud.Loud"}]})
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "importing 'broken' failed: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "importing 'broken' failed: SystemExit: 3"),
        ("import sys; sys.exit()", "importing 'broken' failed: SystemExit"),
        ("def :", "importing 'broken' failed: SyntaxError: invalid syntax (broken.py, line 1)"),
        ("import not_there_at_all", "module 'broken' needs module 'not_there_at_all', which is not installed"),
        ("from zoo import Lion", "importing 'broken' failed: ImportError: cannot import name 'Lion' from 'zoo'"),
        ("raise ValueError('many\\nlines')", "importing 'broken' failed: ValueError: many lines"),
        ("class X(BaseException): ...\nraise X('odd')", "importing 'broken' failed: X: odd"),
    ],
)
def test_a_module_that_cannot_be_imported(module: Write, text: str, message: str) -> None:
    module("broken.py", text)
    mistake = only({"name": "a", "class": "broken.X"})
    assert mistake.message.startswith(message)
    assert "\n" not in str(mistake)


def test_a_keyboard_interrupt_is_not_a_mistake(module: Write) -> None:
    module("stopped.py", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load({"pipeline": [{"name": "a", "class": "stopped.X"}]})


def test_modules_of_a_package_are_offered(module: Write) -> None:
    module("shop/__init__.py", "")
    module("shop/fruit.py", "from zoo import Keeper\nclass Apple(Keeper): ...")
    assert (
        only({"name": "a", "class": "shop.friut.Apple"}).message
        == "module 'shop.friut' not found; did you mean 'shop.fruit'?"
    )
    assert load({"pipeline": [{"name": "a", "class": "shop.fruit.Apple"}]})


def test_a_configuration_that_python_made_is_checked_too() -> None:
    config = PipelineConfig.model_validate({"pipeline": [{**DET, "depends_on": "b"}]})
    assert mistakes_of(config)[0].message == "unknown step 'b'; there is no other step"
