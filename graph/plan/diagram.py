"""Pictures of a plan: Mermaid text, and SVG drawn by Graphviz."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping

from graph.plan.plan import Plan
from graph.plan.planned_step import PlannedStep

__all__ = ["mermaid", "svg"]

_RULE_CHARACTERS = 62
_FONT = "DejaVu Sans,Helvetica,sans-serif"


def mermaid(plan: Plan, rates: Mapping[str, str] | None = None) -> str:
    """The plan as a Mermaid flowchart: conditions on the lines that lead to a step, crop rules in its box.

    Args:
        plan: the pipeline.
        rates: what to write on the lines that lead to a step instead of its condition, by its name.
    """
    numbers = {step.name: f"step{index}" for index, step in enumerate(plan)}
    lines = ["flowchart LR", "    image([image])"]
    for step in plan:
        texts = [f"<b>{_mermaid_text(step.name)}</b>", _mermaid_text(step.class_path)]
        if step.crops is not None:
            texts.append(f"crops: {_mermaid_text(step.crops.source)}")
        lines.append(f'    {numbers[step.name]}["{"<br/>".join(texts)}"]')
    for step in plan:
        condition = "" if step.condition is None else f"if {step.condition.source}"
        text = condition if rates is None else rates.get(step.name, "")
        label = f'|"{_mermaid_text(text)}"|' if text else ""
        lines += [
            f"    {source} -->{label} {numbers[step.name]}"
            for source in ([numbers[name] for name in step.depends_on] or ["image"])
        ]
    return "\n".join(lines) + "\n"


def svg(plan: Plan) -> str:
    """The plan as an SVG picture, from left to right. A dashed box has a condition."""
    from pygraphviz import AGraph

    picture = AGraph(name=plan.name, directed=True, rankdir="LR", ranksep=0.6, nodesep=0.3)
    picture.node_attr.update(shape="box", style="rounded", fontname=_FONT, fontsize=11, color="#94a3b8")
    picture.edge_attr.update(color="#64748b", arrowsize=0.7)
    numbers = {step.name: number for number, step in enumerate(plan)}
    picture.add_node("image", style="rounded,filled", fillcolor="#1f2937", fontcolor="white")
    for step in plan:
        style = "rounded" if step.condition is None else "rounded,dashed"
        picture.add_node(numbers[step.name], label=_label(step), tooltip=_tooltip(step), style=style)
    for step in plan:
        for name in step.depends_on or ("image",):
            picture.add_edge(numbers.get(name, "image"), numbers[step.name])
    drawn: bytes = picture.draw(format="svg", prog="dot")
    return drawn.decode()


def _label(step: PlannedStep) -> str:
    """Graphviz' HTML-like label: the step's name and class, and its rules."""
    rows = [f"<b>{html.escape(step.name)}</b>", f'<font color="#6b7280">{html.escape(step.class_path)}</font>']
    for word, rule in _rules(step).items():
        rows.append(f'<font color="#b45309" point-size="9"><b>{word}</b></font>')
        rows += [html.escape(line) for line in textwrap.wrap(rule, _RULE_CHARACTERS, max_lines=3, placeholder=" …")]
    left_aligned = "".join(row + '<br align="left"/>' for row in rows)
    return f"<{left_aligned}>"


def _tooltip(step: PlannedStep) -> str:
    rules = "".join(f"\n{word}: {rule}" for word, rule in _rules(step).items())
    return html.escape(f"{step.name} ({step.class_path}){rules}").replace("\\", "\\\\\\\\")


def _rules(step: PlannedStep) -> dict[str, str]:
    rules = {"if": step.condition, "crops": step.crops}
    return {word: " ".join(rule.source.split()) for word, rule in rules.items() if rule is not None}


def _mermaid_text(text: str) -> str:
    """Mermaid's own escapes: ``#`` begins one and ends with ``;``."""
    special = {"#": "#35;", "&": "#amp;", "<": "#lt;", ">": "#gt;", '"': "#quot;", "`": "#96;", "\\": "#92;"}
    return "".join(special.get(character, character) for character in " ".join(text.split()))
