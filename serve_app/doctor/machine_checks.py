"""Whether this machine is ready for ``visiongraph serve`` or ``ray start``."""

from __future__ import annotations

from collections.abc import Iterator

from classifiers import SetupError
from graph import Plan
from serve_app.doctor.findings import Finding, error, ok
from serve_app.doctor.node_facts import unmet_requirements
from serve_app.local.ports import require_port

__all__ = ["check_machine"]


def check_machine(plan: Plan | None, ports: dict[str, int]) -> Iterator[Finding]:
    """Findings about packages, ports and GPUs.

    Args:
        plan: whose steps may reserve GPUs.
        ports: what must be free on loopback, by the option that chooses another.
    """
    unmet = unmet_requirements()
    if unmet:
        yield error(
            "packages", f"not as required: {', '.join(unmet)}", "pip install --upgrade visiongraph's requirements"
        )
    else:
        yield ok("packages", "as required")
    for option, port in ports.items():
        try:
            require_port("127.0.0.1", port, option)
        except SetupError as failure:
            message, _, fix = str(failure).partition("; ")
            yield error("ports", message, f"{fix}; a running cluster is checked with --address auto")
        else:
            yield ok("ports", f"{port} is free")
    if plan is not None and any(step.serve.num_gpus for step in plan):
        yield _gpus(max(step.serve.num_gpus for step in plan))


def _gpus(most: float) -> Finding:
    import torch

    count = torch.cuda.device_count()
    if count < most:
        fix = "use a machine with one, or lower num_gpus; nvidia-smi says whether the driver sees it"
        return error("resources", f"a step reserves {most:g} GPU; this machine has {count}", fix)
    return ok("resources", f"{count} GPU")
