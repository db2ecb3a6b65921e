"""Writes the Serve config file of a pipeline, for ``serve deploy``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from graph import load_plan
from graph.pipeline_file import structure, tunables
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.deployments import OPEN_GATEWAY, deployment_options
from serve_app.deployments.fitting import Machine, fit_to
from serve_app.local import LOGGING

__all__ = ["BlockDumper", "commented", "render"]

# What the replicas need to find the same classes and models as the process that renders.
_PASSED_ON = ("PYTHONPATH", "VISIONGRAPH_CACHE", "VISIONGRAPH_MODELS")

_COMMENTS = {
    "http_options": "Loopback only: terminate TLS in front before you bind 0.0.0.0, for example for a load balancer.",
    "logging_config": "Off: one log line per request costs more than a small model, and the metrics count requests.",
    "applications": "One application: one deployment per step, with the gateway in front.",
    "runtime_env": "Where replicas find your classes and models: as set for the process that rendered this file.",
    "args": "The structure. A change rolls every deployment; each new replica starts before its old one stops.",
    "user_config": "The tunables of all steps, in one block. A change is applied in place, without a restart.",
    "max_surge_percent": "An update starts new replicas before it stops old ones; leave room for twice as many.",
    "max_ongoing_requests": "High enough that nothing waits in Serve: replicas enforce the limit of the pipeline.",
    "max_queued_requests": "Calls that may wait at each caller; beyond that clients get 503.",
    "backpressure_config": "The response when the queue is full, with Retry-After in seconds.",
    "health_check_period_s": "A replica that fails three checks, for example because its model hangs, is replaced.",
    "intake": "The queue of images, and the store of results. Write ${NAME} for a password from the environment.",
    "graceful_shutdown_timeout_s": "A worker that is stopped finishes its images or requeues them within this time.",
    "ray_actor_options": "What a replica reserves on its node; several steps can share one GPU.",
}
"""Written above the first line with the key."""

_TITLE = """\
# Serve config of the pipeline '{name}', made by: visiongraph render {pipeline}
# Deploy it with: serve deploy THIS_FILE
"""


def render(
    pipeline: str | Path,
    *,
    gateway: GatewayConfig = OPEN_GATEWAY,
    intake: IntakeConfig | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    environment: Mapping[str, str] | None = None,
    machine: Machine | None = None,
) -> str:
    """The Serve config of a pipeline file, as commented YAML.

    The pipeline is inline, so that the cluster needs no files but the models: its structure in ``args``, its tunables
    in ``user_config``, and the options of each step in its deployment.

    Args:
        gateway: authentication and limits; without it every client on this machine is allowed.
        intake: where images come from, and results go; without it there are no workers and no jobs.
        host: address that the HTTP endpoint binds.
        machine: choose replicas and placement for it, see :func:`serve_app.deployments.fitting.fit_to`.
        environment: of the replicas, in ``runtime_env``; ``None``: where this process finds classes and models.

    Raises:
        PipelineError: the file has errors.
    """
    plan = load_plan(pipeline)
    if machine is not None:
        fitted = fit_to(machine, plan, gateway)
        plan, gateway = fitted.plan, fitted.gateway
    gateway = gateway.bound_to(host)
    changeable = tunables(plan.config)
    application: dict[str, Any] = {"name": plan.name, "route_prefix": "/", "import_path": "serve_app.app:build"}
    if environment is None:
        environment = {key: os.environ[key] for key in _PASSED_ON if os.environ.get(key)}
    if environment:
        application["runtime_env"] = {"env_vars": dict(environment)}
    application["args"] = {
        "pipeline": structure(plan.config),
        "gateway": {**gateway.model_dump(mode="json", exclude_defaults=True), "timeout_ms": gateway.timeout_ms},
    }
    if intake is not None:
        application["args"]["intake"] = intake.model_dump(mode="json", exclude_defaults=True)
    application["deployments"] = [
        {"name": name, "user_config": changeable, **options}
        for name, options in deployment_options(plan, gateway, intake).items()
    ]
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port},
        "logging_config": dict(LOGGING),
        "applications": [application],
    }
    return _TITLE.format(name=plan.name, pipeline=pipeline) + commented(
        yaml.dump(config, Dumper=BlockDumper, sort_keys=False, width=120, allow_unicode=True), _COMMENTS
    )


class BlockDumper(yaml.SafeDumper):
    """Names the one block that is shared, and indents lists under their key."""

    def generate_anchor(self, node: yaml.Node) -> str:  # noqa: ARG002 - there is one
        return "tunables"

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)


def commented(text: str, comments: Mapping[str, str]) -> str:
    """YAML with a comment above the first line that has the key of the comment."""
    left = dict(comments)
    lines = []
    for line in text.splitlines():
        key = line.lstrip(" -").split(":")[0]
        comment = left.pop(key, None)
        if comment is not None:
            lines.append(" " * (len(line) - len(line.lstrip(" "))) + f"# {comment}")
        lines.append(line)
    return "\n".join(lines) + "\n"
