"""Pictures of plans: they are complete, escaped, and nothing in them overlaps."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from graph._layout import Box, lay_out
from graph.diagram import mermaid, svg
from graph.plan import Plan, load_plan

SVG = "{http://www.w3.org/2000/svg}"
NASTY = """detection['class_name'] != '<b>"&#35;`\\\\' and detection['confidence'] > 0.5"""


def chain(*edges: tuple[str, list[str]], **keys: Any) -> Plan:
    steps = [{"name": name, "class": "zoo.Keeper", "depends_on": on} for name, on in edges]
    steps[-1] |= keys
    return load_plan({"pipeline": steps, "name": 'a "<&>" plan'})


def texts(plan: Plan) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg(plan)).iter(f"{SVG}text")]


def test_mermaid() -> None:
    condition = "'car' in context['det']['detected_classes']"
    plan = chain(("det", []), ("end", ["det"]), condition=condition, crops="detection['class_name'] == 'car'")
    assert mermaid(plan) == (
        "flowchart LR\n"
        "    image([image])\n"
        '    step0["<b>det</b><br/>zoo.Keeper"]\n'
        "    step1[\"<b>end</b><br/>zoo.Keeper<br/>crops: detection['class_name'] == 'car'\"]\n"
        "    image --> step0\n"
        f'    step0 -->|"if {condition}"| step1\n'
    )


def test_mermaid_text_is_escaped() -> None:
    plan = chain(("det", []), ("a", ["det"]), crops=NASTY)
    label = re.search(r'step1\["(.*)"\]\n', mermaid(plan))
    assert label is not None
    crops = label[1].split("crops: ")[1]
    assert not set('<>"`\\') & set(crops)
    names = {"35": "#", "amp": "&", "lt": "<", "gt": ">", "quot": '"', "96": "`", "92": "\\"}
    assert re.sub(r"#(\w+);", lambda found: names[found[1]], crops) == NASTY


def test_a_rule_of_several_lines_stays_on_one() -> None:
    plan = chain(("det", []), ("a", ["det"]), condition="'car' in\n  context['det']['detected_classes']")
    assert "|\"if 'car' in context['det']['detected_classes']\"|" in mermaid(plan)


def test_svg_shows_names_classes_and_rules() -> None:
    plan = chain(("det", []), ("a", ["det"]), condition="image['width'] > 3", crops="detection['confidence'] > 0.5")
    assert texts(plan) == [
        "image",
        *("det", "zoo.Keeper"),
        *("a", "zoo.Keeper", "if", "image['width'] > 3", "crops", "detection['confidence'] > 0.5"),
    ]
    root = ET.fromstring(svg(plan))
    classes = [element.get("class") for element in root.iter(f"{SVG}rect")]
    assert classes == [None, "image", "box root", "box conditional"]
    assert len([path for path in root.iter(f"{SVG}path") if path.get("class") == "mark"]) == 1


def test_svg_text_is_escaped_and_the_whole_rule_is_in_the_tooltip() -> None:
    rule = f"{NASTY} and {' and '.join(['image[' + repr('width') + '] > 640'] * 9)}"
    plan = chain(("det", []), ("a", ["det"]), crops=rule)
    root = ET.fromstring(svg(plan))
    titles = [element.text for element in root.iter(f"{SVG}title")]
    assert titles[0] == 'a "<&>" plan'
    assert titles[-1] == f"a (zoo.Keeper)\ncrops: {rule}"
    rows = texts(plan)[texts(plan).index("crops") + 1 :]
    assert len(rows) == 3
    assert rows[-1].endswith("…")
    assert all(len(row) <= 42 for row in rows)


def test_long_names_are_cut() -> None:
    assert "x" * 33 + "…" in texts(chain(("x" * 100, [])))


def test_of_a_long_class_path_the_end_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"m{'x' * 60}.py").write_text("from zoo import Keeper\nclass Animal(Keeper): ...\n")
    shown = texts(chain(("det", []), **{"class": f"m{'x' * 60}.Animal"}))[-1]
    assert shown.startswith("…xxx")
    assert shown.endswith("x.Animal")
    assert len(shown) == 46


def test_rules_break_at_spaces_and_brackets() -> None:
    plan = chain(
        ("a_long_name", []), ("a", ["a_long_name"]), condition="'car' in context['a_long_name']['detected_classes']"
    )
    assert texts(plan)[-2:] == ["'car' in context['a_long_name']", "['detected_classes']"]
    plan = chain(("det", []), condition=f"image['metadata']['site'] == '{'x' * 50}'")
    assert texts(plan)[-3:] == ["image['metadata']['site'] ==", f"'{'x' * 41}", f"{'x' * 9}'"]


def random_plan(count: int, seed: int) -> Plan:
    dice = random.Random(seed)
    edges: list[tuple[str, list[str]]] = []
    for index in range(count):
        wanted = min(dice.choice([0, 1, 1, 1, 2, 3]) if index else 0, index)
        edges.append((f"step_{index}", [name for name, _ in dice.sample(edges, wanted)]))
    dice.shuffle(edges)
    return chain(*edges)


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (5, 2), (12, 3), (30, 4), (30, 5), (30, 6)])
def test_boxes_do_not_overlap_and_lines_go_right(count: int, seed: int) -> None:
    plan = random_plan(count, seed)
    parents = {step.name: step.depends_on for step in plan}
    sizes = {step.name: (300.0, 50.0 + 7 * (index % 5)) for index, step in enumerate(plan)}
    layout = lay_out(sizes, parents, gap_x=60, gap_y=20)
    assert set(layout.boxes) == set(parents)
    for one, other in combinations(layout.boxes.values(), 2):
        assert apart(one, other) >= 20 - 1e-6
    for box in layout.boxes.values():
        assert box.x >= 0
        assert box.y >= -1e-6
        assert box.x + box.width <= layout.width + 1e-6
        assert box.y + box.height <= layout.height + 1e-6
    assert set(layout.lines) == {(parent, child) for child, names in parents.items() for parent in names}
    for points in layout.lines.values():
        assert [x for x, _ in points] == sorted(x for x, _ in points)
        for (x1, y1), (x2, y2) in zip(points[1:-1:2], points[2:-1:2], strict=True):  # where it passes a layer
            assert y1 == y2
            assert all(apart(Box(x1, y1, x2 - x1, 0), box) > 0 for box in layout.boxes.values())
    assert ET.fromstring(svg(plan)).tag == f"{SVG}svg"
    assert mermaid(plan).count("-->") == len(layout.lines) + len(plan.roots)


def apart(one: Box, other: Box) -> float:
    """The gap between two boxes, in pixels; negative where they overlap."""
    across = max(one.x - other.x - other.width, other.x - one.x - one.width)
    down = max(one.y - other.y - other.height, other.y - one.y - one.height)
    return max(across, down)


def test_one_child_stands_beside_its_parent_and_the_parent_amid_its_children() -> None:
    size = (100.0, 40.0)
    layout = lay_out(dict.fromkeys("abcd", size), {"a": [], "b": ["a"], "c": ["a"], "d": ["a"]}, 50, 20)
    assert [layout.boxes[name].y for name in "bcd"] == [0, 60, 120]
    assert layout.boxes["a"].y == 60
    assert (layout.width, layout.height) == (250, 160)


def test_lines_cross_as_little_as_they_must() -> None:
    parents = {"a": [], "b": [], "x": ["b"], "y": ["a"]}
    layout = lay_out(dict.fromkeys(parents, (100.0, 40.0)), parents, 50, 20)
    a_is_above = layout.boxes["a"].y < layout.boxes["b"].y
    assert (layout.boxes["y"].y < layout.boxes["x"].y) is a_is_above
