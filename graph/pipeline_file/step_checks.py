"""Whether the steps of a pipeline fit each other, and their classes.

Works on data that may have other errors, so that all of them are reported at once. What has the wrong type is skipped
here; the models in ``schema.py`` report it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from classifiers.base import BaseClassifier
from classifiers.suggestions import did_you_mean
from graph.conditions import Rule, RuleSyntaxError
from graph.pipeline_file.classes import ClassError, import_class
from graph.pipeline_file.params import absolute_paths, checked_params
from graph.pipeline_file.report import Report
from graph.pipeline_file.rule_checks import checked_rule, default_crops_problem
from graph.pipeline_file.schema import CLASS_PATH

__all__ = ["Draft", "check_steps", "read_drafts", "text_of"]


@dataclass(slots=True)
class Draft:
    """What is known about one step while it is checked.

    Attributes:
        index: its place in the file.
        data: its keys as in the file.
        name: ``None`` unless it is a string.
        cls: its class; ``None`` if it cannot be imported.
        depends_on: ``None`` if it cannot be read.
        arguments: of the constructor, converted to the annotated types.
        crops: the rule that applies; may be the class's own.
    """

    index: int
    data: dict[str, Any]
    name: str | None
    depends_on: tuple[str, ...] | None
    cls: type[BaseClassifier] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    condition: Rule | None = None
    crops: Rule | None = None

    def loc(self, key: str) -> tuple[str | int, ...]:
        """The place of one of its keys."""
        return ("pipeline", self.index, key)

    def text(self, key: str) -> str | None:
        """The value of a key, when it is a string that is not empty."""
        return text_of(self.data, key)

    @property
    def serve(self) -> dict[str, Any]:
        """The block ``serve``, when it is a mapping; otherwise empty."""
        serve = self.data.get("serve")
        return serve if isinstance(serve, dict) else {}


def read_drafts(data: Any) -> list[Draft]:
    """Those steps of the data that are mappings."""
    steps = data.get("pipeline") if isinstance(data, dict) else None
    if not isinstance(steps, list):
        return []
    return [
        Draft(index, step, text_of(step, "name"), _dependencies(step.get("depends_on", [])))
        for index, step in enumerate(steps)
        if isinstance(step, dict)
    ]


def check_steps(drafts: Sequence[Draft], report: Report, folder: Path | None) -> None:
    """Check classes, parameters, dependencies and rules, and fill the drafts.

    Args:
        drafts: the steps; relative paths in their ``params`` are made absolute in place.
        report: gets the errors.
        folder: what relative paths are relative to; ``None``: they stay as they are.
    """
    first: dict[str, Draft] = {}
    for draft in drafts:
        if draft.name is not None and (other := first.setdefault(draft.name, draft)) is not draft:
            message = f"two steps are called {draft.name!r}, the other is number {other.index + 1}; rename one"
            report.add(draft.loc("name"), message)
    names = [*first]
    for draft in drafts:
        _check_class(draft, report, folder)
        _check_dependencies(draft, names, report)
        draft.condition = _check_rule(draft, "condition", names, report)
        draft.crops = _check_rule(draft, "crops", names, report)
        _check_crops(draft, report)
        _check_crops_from(draft, report)
    _check_cycles(drafts, report)


def _check_class(draft: Draft, report: Report, folder: Path | None) -> None:
    path, params = draft.text("class"), draft.data.get("params", {})
    if path is None or not re.fullmatch(CLASS_PATH, path):
        return
    try:
        draft.cls = import_class(path)
    except ClassError as problem:
        report.add(draft.loc("class"), str(problem))
    if draft.cls is None or not isinstance(params, dict):
        return
    if folder is not None:
        params = absolute_paths(draft.cls, params, folder)
        if params:
            draft.data["params"] = params
    draft.arguments, problems = checked_params(draft.cls, params)
    for loc, message in problems:
        report.add((*draft.loc("params"), *loc), message)


def _check_dependencies(draft: Draft, names: Sequence[str], report: Report) -> None:
    for name in draft.depends_on or ():
        if name not in names:
            others = [other for other in names if other != draft.name]
            known = f"; the other steps are {', '.join(map(repr, others))}" if others else "; there is no other step"
            written = draft.data["depends_on"]
            item = (written.index(name),) if isinstance(written, list) else ()
            report.add((*draft.loc("depends_on"), *item), f"unknown step {name!r}{did_you_mean(name, others, known)}")


def _check_rule(draft: Draft, kind: Literal["condition", "crops"], names: Sequence[str], report: Report) -> Rule | None:
    source = draft.text(kind)
    if source is None:
        return None
    try:
        return checked_rule(kind, source, draft.depends_on, draft.name, names)
    except RuleSyntaxError as problem:
        report.add(draft.loc(kind), str(problem))
        return None


def _check_crops(draft: Draft, report: Report) -> None:
    if draft.depends_on is None:
        return
    own = draft.cls.default_crops if draft.cls is not None and "crops" not in draft.data else None
    if draft.text("crops") is not None and not draft.depends_on:
        report.add(draft.loc("crops"), "needs the detections of another step; add the step that detects to depends_on")
    if (draft.text("crops") or own) and draft.data.get("decode") == "reduced":
        message = "has no effect on a step that looks at crops, which are cut from full pixels; remove it"
        report.add(draft.loc("decode"), message)
    if draft.cls is not None and own is not None:
        if problem := default_crops_problem(draft.cls, draft.depends_on):
            report.add(draft.loc("crops"), problem)
        else:
            draft.crops = checked_rule("crops", own, draft.depends_on)


def _check_crops_from(draft: Draft, report: Report) -> None:
    source = draft.text("crops_from")
    if source is None:
        return
    loc = draft.loc("crops_from")
    problem = None
    if "crops" in draft.data and draft.data["crops"] is None:
        problem = "`crops: null` means the whole image; remove one of them"
    elif "crops" not in draft.data and draft.cls is not None and draft.cls.default_crops is None:
        problem = "there is no crop rule; add `crops`"
    if problem is not None:
        report.add(loc, f"selects whose detections become crops, but {problem}")
    if draft.depends_on is not None and source not in draft.depends_on:
        fix = f"; add {source!r} to depends_on"
        report.add(loc, f"{source!r} is not among the steps it depends on{did_you_mean(source, draft.depends_on, fix)}")


def _check_cycles(drafts: Sequence[Draft], report: Report) -> None:
    by_name = {draft.name: draft for draft in drafts if draft.name is not None}
    edges = {
        name: [other for other in draft.depends_on or () if other in by_name and other != name]
        for name, draft in by_name.items()
    }
    while True:
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            cycle = error.args[1][:0:-1]
            # Begins with the first step of the file, so that the message does not depend on where the search began.
            first = min(cycle, key=lambda name: by_name[name].index)
            start = cycle.index(first)
            names = " -> ".join([*cycle[start:], *cycle[:start], first])
            report.add(by_name[first].loc("depends_on"), f"a cycle: {names}; remove one of these dependencies")
            edges[first] = []  # to find further cycles
        else:
            return


def text_of(data: Mapping[str, Any], key: str) -> str | None:
    """The value of a key, when it is a string that is not empty."""
    value = data.get(key)
    return value if isinstance(value, str) and value else None


def _dependencies(value: object) -> tuple[str, ...] | None:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return None
    return tuple(dict.fromkeys(value))
