"""Pictures of a plan: Mermaid text, and SVG that needs no other program."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise

from graph._layout import Box, lay_out
from graph.plan import Plan, PlannedStep

__all__ = ["mermaid", "svg"]

_IMAGE = " image"  # the source of every root; no step's name begins with a space

_MARGIN, _PADDING, _GAP_X, _GAP_Y = 24, 12, 72, 20
_BOX_WIDTH, _TITLE_HEIGHT, _LINE_HEIGHT = 340, 42, 16
_NAME_CHARACTERS, _CLASS_CHARACTERS, _RULE_CHARACTERS = 34, 46, 42  # what fits a box at the font sizes below
_RULE_LINES = 3

_STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;font-size:12px;fill:#1f2937}"
    ".name{font-size:14px;font-weight:600}.class{fill:#6b7280}"
    ".rule{font-family:ui-monospace,Menlo,'DejaVu Sans Mono',monospace;font-size:11px}"
    ".word{font-size:10px;font-weight:600;fill:#b45309}.crop{fill:#0f766e}"
    ".box{fill:#ffffff;stroke:#94a3b8;stroke-width:1.2}.root{fill:#eff6ff;stroke:#3b82f6}"
    ".conditional{stroke-dasharray:5 3}.image{fill:#1f2937}.image-text{fill:#ffffff;font-weight:600}"
    ".line{fill:none;stroke:#64748b;stroke-width:1.4}.mark{fill:none;stroke:#0f766e;stroke-width:1.5}"
)
_ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#64748b"/></marker>'
)


def mermaid(plan: Plan) -> str:
    """The plan as a Mermaid flowchart: conditions on the lines that lead to a step, crop rules in its box."""
    numbers = {step.name: f"step{index}" for index, step in enumerate(plan)}
    lines = ["flowchart LR", "    image([image])"]
    for step in plan:
        texts = [f"<b>{_mermaid_text(step.name)}</b>", _mermaid_text(step.class_path)]
        if step.crops is not None:
            texts.append(f"crops: {_mermaid_text(step.crops.source)}")
        lines.append(f'    {numbers[step.name]}["{"<br/>".join(texts)}"]')
    for step in plan:
        label = "" if step.condition is None else f'|"if {_mermaid_text(step.condition.source)}"|'
        lines += [
            f"    {source} -->{label} {numbers[step.name]}"
            for source in ([numbers[name] for name in step.depends_on] or ["image"])
        ]
    return "\n".join(lines) + "\n"


def svg(plan: Plan) -> str:
    """The plan as an SVG picture, from left to right. A dashed box: a condition decides whether the step runs."""
    sizes: dict[str, tuple[float, float]] = {_IMAGE: (64, 40)}
    sizes |= {step.name: (_BOX_WIDTH, _box_height(step)) for step in plan}
    parents: dict[str, Sequence[str]] = {_IMAGE: ()}
    parents |= {step.name: step.depends_on or (_IMAGE,) for step in plan}
    layout = lay_out(sizes, parents, _GAP_X, _GAP_Y)
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    size = f'width="{width:g}" height="{height:.1f}" viewBox="0 0 {width:g} {height:.1f}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{_xml(plan.name)}</title>",
        f"<style>{_STYLE}</style>",
        f"<defs>{_ARROW}</defs>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<g transform="translate({_MARGIN} {_MARGIN})">',
        *(f'<path class="line" d="{_curve(points)}" marker-end="url(#arrow)"/>' for points in layout.lines.values()),
        *_image_box(layout.boxes[_IMAGE]),
        *(part for step in plan for part in _step_box(step, layout.boxes[step.name])),
        "</g>",
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _image_box(box: Box) -> Iterator[str]:
    size = f'width="{box.width:g}" height="{box.height:g}" rx="20"'
    yield f'<rect class="image" x="{box.x:.1f}" y="{box.y:.1f}" {size}/>'
    middle, base = box.x + box.width / 2, box.y + box.height / 2 + 4
    yield f'<text class="image-text" x="{middle:.1f}" y="{base:.1f}" text-anchor="middle">image</text>'


def _step_box(step: PlannedStep, box: Box) -> Iterator[str]:
    classes = "box" + (" conditional" if step.condition is not None else "") + ("" if step.depends_on else " root")
    left, base = box.x + _PADDING, box.y + 20
    yield f"<g><title>{_xml(_tooltip(step))}</title>"
    size = f'width="{box.width:g}" height="{box.height:g}" rx="6"'
    yield f'<rect class="{classes}" x="{box.x:.1f}" y="{box.y:.1f}" {size}/>'
    yield f'<text class="name" x="{left:.1f}" y="{base:.1f}">{_xml(_short(step.name, _NAME_CHARACTERS))}</text>'
    path = step.class_path
    class_name = path if len(path) <= _CLASS_CHARACTERS else f"…{path[1 - _CLASS_CHARACTERS :]}"  # the end says most
    yield f'<text class="class" x="{left:.1f}" y="{base + 15:.1f}">{_xml(class_name)}</text>'
    base = box.y + _TITLE_HEIGHT
    for word, rows in _rules(step):
        base += _LINE_HEIGHT
        style = "word" if word == "if" else "word crop"
        yield f'<text class="{style}" x="{left:.1f}" y="{base:.1f}">{word}</text>'
        if word == "crops":
            yield _crop_mark(box.x + box.width - _PADDING - 14, box.y + 10)
        for index, row in enumerate(rows):
            base += _LINE_HEIGHT if index else 0
            yield f'<text class="rule" x="{left + 36:.1f}" y="{base:.1f}" xml:space="preserve">{_xml(row)}</text>'
    yield "</g>"


def _rules(step: PlannedStep) -> Iterator[tuple[str, list[str]]]:
    for word, rule in (("if", step.condition), ("crops", step.crops)):
        if rule is not None:
            yield word, _wrapped(rule.source)


def _box_height(step: PlannedStep) -> float:
    rows = sum(len(rows) for _, rows in _rules(step))
    return _TITLE_HEIGHT + rows * _LINE_HEIGHT + (_PADDING if rows else 4)


def _crop_mark(x: float, y: float) -> str:
    """Two corners, as photo editors draw cropping; 14 x 14 pixels."""
    return f'<path class="mark" d="M{x + 3:.1f} {y:.1f} v11 h11 M{x:.1f} {y + 3:.1f} h11 v11"/>'


def _curve(points: Sequence[tuple[float, float]]) -> str:
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (x1 + x2) / 2
        path.append(f"C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}")
    return " ".join(path)


def _tooltip(step: PlannedStep) -> str:
    rules = [f"{word}: {rule.source}" for word, rule in (("if", step.condition), ("crops", step.crops)) if rule]
    return "\n".join([f"{step.name} ({step.class_path})", *rules])


def _wrapped(text: str) -> list[str]:
    rows = [""]
    for part in re.split(r"(?<=\s)|(?=\[)", " ".join(text.split())):
        if len(rows[-1]) + len(part.rstrip()) > _RULE_CHARACTERS and rows[-1]:
            rows.append("")
        rows[-1] += part
    rows = [piece for row in rows for piece in textwrap.wrap(row, _RULE_CHARACTERS)]  # a part may be longer than a row
    if len(rows) > _RULE_LINES:
        rows = [*rows[: _RULE_LINES - 1], _short(" ".join(rows[_RULE_LINES - 1 :]), _RULE_CHARACTERS)]
    return rows


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _xml(text: str) -> str:
    return html.escape(text, quote=True)


def _mermaid_text(text: str) -> str:
    """Mermaid's own escapes: ``#`` begins one and ends with ``;``."""
    special = {"#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "`": "#96;", "\\": "#92;"}
    return "".join(special.get(character, character) for character in " ".join(text.split()))
