"""From a pipeline file to Kubernetes manifests, as commented YAML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from classifiers import SetupError
from graph import load_plan
from serve_app.config import GatewayConfig, IntakeConfig
from serve_app.deployments import demands
from serve_app.kubernetes.capacity import worker_groups
from serve_app.kubernetes.checks import kubernetes_name, require_it_can_work, warnings
from serve_app.kubernetes.companions import disruption_budgets, pipeline_file, pod_monitors, service_account
from serve_app.kubernetes.network_policies import network_policies
from serve_app.kubernetes.pods import HTTP_PORT
from serve_app.kubernetes.ray_job import Batch, batch_group, ray_job
from serve_app.kubernetes.ray_service import ray_service
from serve_app.kubernetes.references import References, with_mounted_files
from serve_app.kubernetes.target import Target
from serve_app.rendering import BlockDumper, commented, render
from serve_app.uris import scheme_of

__all__ = ["render_batch", "render_kubernetes"]

_COMMENTS = {
    "automountServiceAccountToken": "Annotate the account if the cloud grants credentials to service accounts.",
    "upgradeStrategy": "How a changed cluster replaces the running one; a changed serveConfigV2 is applied in place.",
    "rayClusterDeletionDelaySeconds": "Time for the old cluster to finish its requests and images.",
    "serveService": "What clients and ingresses call; KubeRay points it at the active cluster.",
    "serveConfigV2": "The Serve config, as for 'serve deploy'.",
    "autoscalerOptions": "Adds a pod when a replica has no room, and removes pods that are idle.",
    "authOptions": "Ray's own endpoints require this token.",
    "gcsFaultToleranceOptions": "The cluster survives its head pod.",
    "env": "The same on all pods: the fast configuration, and the location of the models.",
    "startupProbe": "A pod has five minutes to start; after that, a pod that hangs is replaced within a minute.",
    "lifecycle": "On eviction Serve starts replicas elsewhere, and those on this pod finish their requests.",
    "minAvailable": "Pods of a group are evicted one at a time.",
    "entrypoint": "An interrupted run is continued by the same command.",
    "policyTypes": "In: the proxy's port, metrics, the operator. Out: DNS, and the ports of the services in use.",
}
"""Written above the first line with the key."""

_TITLE = """\
# Kubernetes manifests of the pipeline '{name}', made by: visiongraph render {pipeline} --kubernetes
# They need the KubeRay operator 1.7 and the Prometheus operator's PodMonitor. Before 'kubectl apply -f THIS_FILE':
#
"""


def render_kubernetes(
    pipeline: str | Path,
    target: Target,
    *,
    gateway: GatewayConfig,
    intake: IntakeConfig | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> str:
    """The manifests of a pipeline file.

    Args:
        target: where they are for; without a name the pipeline's is taken.
        intake: where images come from, and results go; without it there are no workers and no jobs.
        warn: called with what may be unintended.

    Raises:
        PipelineError: the file has errors.
        SetupError: something cannot work on Kubernetes; the message has a line for each.
    """
    plan = load_plan(pipeline)
    target = target if target.name else replace(target, name=kubernetes_name(plan.name))
    wanted = demands(plan, gateway, intake)
    groups = worker_groups(wanted, target)
    require_it_can_work(target, wanted, groups, gateway, intake)
    for warning in warnings(target, plan, wanted):
        warn(warning)
    references = References.of(target, gateway, intake)
    serve_file = render(
        pipeline,
        gateway=with_mounted_files(gateway),
        intake=intake,
        host="0.0.0.0",  # noqa: S104 - the NetworkPolicy says who reaches it
        port=HTTP_PORT,
        environment={},
    )
    # without the comments at the top level, which are for a file of its own
    serve_config = "".join(line for line in serve_file.splitlines(keepends=True) if not line.startswith("#"))
    documents: list[dict[str, Any]] = [
        service_account(target),
        *([pipeline_file(target, Path(pipeline).read_text())] if target.models == "download" else []),
        ray_service(target, references, groups, serve_config, intake),
        *disruption_budgets(target, groups),
        *network_policies(target, gateway, intake),
        *pod_monitors(target, groups),
    ]
    return _written(_TITLE.format(name=plan.name, pipeline=pipeline), target, references, documents)


def render_batch(
    pipeline: str | Path, target: Target, batch: Batch, *, warn: Callable[[str], None] = lambda _: None
) -> str:
    """The manifests of a bulk run.

    Args:
        target: where they are for; without a name the pipeline's is taken.
        batch: what is run, and where results go.
        warn: called with what may be unintended.

    Raises:
        PipelineError: the file has errors.
        SetupError: something cannot work on Kubernetes; the message says what.
    """
    plan = load_plan(pipeline)
    target = replace(target, name=target.name or kubernetes_name(f"{plan.name}-batch"))
    for address in (*batch.sources, batch.out):
        if scheme_of(address) not in ("s3", "gs"):
            raise SetupError(f"{address} is not on the pods; use s3:// or gs://")
    gateway = GatewayConfig.model_validate({"auth": "none"})
    group, references = batch_group(plan, target, batch), References.of(target, gateway, None)
    for warning in warnings(target, plan, [], in_redis=False):
        warn(warning)
    documents: list[dict[str, Any]] = [
        service_account(target),
        pipeline_file(target, Path(pipeline).read_text()),
        ray_job(target, references, group, batch),
        *network_policies(target, gateway, None, [batch.out, *batch.sources]),
        *pod_monitors(target, [group]),
    ]
    title = _TITLE.format(name=plan.name, pipeline=f"{pipeline} --batch")
    return _written(title, target, references, documents)


def _written(title: str, target: Target, references: References, documents: list[dict[str, Any]]) -> str:
    commands = [f"kubectl create namespace {target.namespace}", *references.commands(target.namespace)]
    return (
        title
        + "".join(f"#   {command}\n" for command in commands)
        + commented(
            yaml.dump_all(
                documents, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True, explicit_start=True
            ),
            _COMMENTS,
        )
    )


class _Dumper(BlockDumper):
    """Writes strings of several lines as block scalars, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
