"""Pictures of plans: they are complete and escaped."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from graph.plan.diagram import mermaid, svg
from graph.plan.plan import Plan, load_plan

SVG = "{http://www.w3.org/2000/svg}"
TITLE = "{http://www.w3.org/1999/xlink}title"
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
    groups = [element.get("class") for element in ET.fromstring(svg(plan)).iter(f"{SVG}g")]
    assert (groups.count("node"), groups.count("edge")) == (3, 2)


def test_svg_text_is_escaped_and_the_whole_rule_is_in_the_tooltip() -> None:
    rule = f"{NASTY} and {' and '.join(['image[' + repr('width') + '] > 640'] * 9)}"
    plan = chain(("det", []), ("a", ["det"]), crops=rule)
    tooltips = [element.get(TITLE) for element in ET.fromstring(svg(plan)).iter() if element.get(TITLE)]
    assert tooltips[-1] == f"a (zoo.Keeper)\ncrops: {rule}"
    rows = texts(plan)[texts(plan).index("crops") + 1 :]
    assert len(rows) == 3
    assert rows[0].startswith("detection['class_name'] != '<b>")
    assert rows[-1].endswith("…")


@pytest.mark.parametrize("count", [1, 12])
def test_every_step_and_dependency_is_drawn(count: int) -> None:
    plan = chain(*((f"step_{index}", [f"step_{index // 2}"] if index else []) for index in range(count)))
    groups = [element.get("class") for element in ET.fromstring(svg(plan)).iter(f"{SVG}g")]
    assert groups.count("node") == count + 1
    assert groups.count("edge") == mermaid(plan).count("-->") == count
