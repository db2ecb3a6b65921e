"""Remarks on a plan that its author should know before it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from graph.pipeline_file import INGRESS
from graph.plan.planned_step import PlannedStep

__all__ = ["notes_on"]


def notes_on(steps: Sequence[PlannedStep]) -> tuple[str, ...]:
    """Remarks in plain language, in file order."""
    by_name = {step.name: step for step in steps}
    roots = [step.name for step in steps if not step.depends_on]
    return tuple(note for step in steps for note in _notes(step, by_name, roots))


def _notes(step: PlannedStep, by_name: Mapping[str, PlannedStep], roots: Sequence[str]) -> Iterator[str]:
    again = f"step {step.name!r} gets the encoded image and decodes it again"
    shares_pixels = step.host == by_name[roots[0]].host == INGRESS
    if not step.depends_on:
        if step.name != roots[0] and not shares_pixels:
            yield f"{again}: it has no dependencies, as {roots[0]!r}"
        return
    if step.crops is None:
        if not shares_pixels:
            yield f"{again}: it has no crop rule, so it looks at the whole image"
        return
    detectors = [name for name in step.depends_on if by_name[name].crops is None]
    if step.crops_from is not None:
        detectors = [name for name in detectors if name == step.crops_from]
    if not detectors:
        what, fix = "all it depends on looks", "add the step that detects to depends_on"
        if step.crops_from is not None:
            what, fix = f"{step.crops_from!r}, which `crops_from` names, looks", "name the step that detects"
        yield f"step {step.name!r} will fail: {what} at crops itself and has no detections; {fix}"
        return
    if len(detectors) > 1:
        yield (
            f"step {step.name!r} fails when more than one of {', '.join(map(repr, detectors))} has detections; "
            f"choose one with `crops_from`"
        )
    others = sorted(step.crops.reads - {detectors[0]}) if len(detectors) == 1 else sorted(step.crops.reads)
    if not shares_pixels and not any(step.name in by_name[name].cuts for name in detectors):
        reads = " and ".join(map(repr, others))
        yield f"{again}: its crop rule reads the result of {reads}, so no other step can cut its crops"
