"""Which steps share a process: ``serve: {colocate_with: ...}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from classifiers.suggestions import did_you_mean
from graph.pipeline_file.report import Report
from graph.pipeline_file.schema import StepConfig
from graph.pipeline_file.serve_options import INGRESS
from graph.pipeline_file.step_checks import Draft, text_of

__all__ = ["check_placement", "hosts_of"]

# How many processes there are, and what waits for them: options of the host.
_OF_THE_HOST = ("num_replicas", "autoscaling", "max_ongoing_requests", "max_queued_requests")


def check_placement(drafts: Sequence[Draft], report: Report) -> None:
    """Check that each step shares a process only with the ingress or with a step that it depends on, and that all its
    options have an effect there."""
    names = [draft.name for draft in drafts if draft.name is not None]
    for draft in drafts:
        where = text_of(draft.serve, "colocate_with")
        if where is None or draft.depends_on is None:
            continue
        if problem := _problem(where, draft.name, draft.depends_on, names):
            report.add((*draft.loc("serve"), "colocate_with"), problem)
            continue
        for key in _OF_THE_HOST:
            if draft.serve.get(key) is not None:
                fix = "the `gateway:` block" if where == INGRESS else f"the `serve` of {where!r}"
                report.add((*draft.loc("serve"), key), f"has no effect in the process of {where!r}; move it to {fix}")
    _check_gpus(drafts, report)


def hosts_of(steps: Sequence[StepConfig]) -> dict[str, str]:
    """For each step the one in whose deployment it runs, by default itself, or :data:`INGRESS`."""
    wanted = {step.name: step.serve.colocate_with for step in steps}
    return {name: _host(name, wanted) for name in wanted}


def _host(name: str, wanted: Mapping[str, str | None]) -> str:
    for _ in wanted:  # not `while`: an invalid file may have a cycle
        where = wanted.get(name)
        if where is None:
            break
        name = where
    return name


def _problem(where: str, name: str | None, depends_on: Sequence[str], names: Sequence[str]) -> str | None:
    """Why the step cannot run there; ``None``: it can."""
    if where == INGRESS:
        if not depends_on:
            return None
        return (
            "only a step without dependencies may run in the ingress by itself; write the step that it depends on: "
            f"colocate_with: {depends_on[0]}"
        )
    if where in depends_on and where in names and where != name:
        return None
    if where == "gateway":
        return f"the ingress is called '{INGRESS}' here; write colocate_with: {INGRESS}"
    if not depends_on:
        return f"a step without dependencies may share a process with the ingress only; write {INGRESS}, or remove it"
    known = f"; it depends on {', '.join(map(repr, depends_on))}"
    what = "is not among the steps it depends on" if where in names else "is no step of this file"
    return f"{where!r} {what}{did_you_mean(where, depends_on, known)}"


def _check_gpus(drafts: Sequence[Draft], report: Report) -> None:
    """Steps that share a process reserve their GPUs together, and Ray allots fractions up to 1 or whole GPUs."""
    by_name = {draft.name: draft for draft in drafts if draft.name is not None}
    wanted = {name: text_of(draft.serve, "colocate_with") for name, draft in by_name.items()}
    together: dict[str, dict[str, float]] = {}
    for name, draft in by_name.items():
        gpus = draft.serve.get("num_gpus", 0)
        if isinstance(gpus, int | float) and gpus:
            together.setdefault(_host(name, wanted), {})[name] = gpus
    for shares in together.values():
        total = round(sum(shares.values()), 4)
        if len(shares) > 1 and total > 1 and total != int(total):
            last = by_name[list(shares)[-1]]
            report.add(
                (*last.loc("serve"), "num_gpus"),
                f"{' and '.join(map(repr, shares))} share a process and take {total:g} GPUs together; that must be a "
                "share up to 1 or a whole number",
            )
