"""What cannot work on a Kubernetes cluster, found before anything is rendered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from classifiers import SetupError
from graph import Plan
from serve_app.config import LOOPBACK_HOSTS, GatewayConfig, IntakeConfig
from serve_app.deployments import Demand
from serve_app.kubernetes.capacity import WorkerGroup
from serve_app.kubernetes.target import GIB_PER_CPU, Target
from serve_app.local.model_downloads import required_models

__all__ = ["kubernetes_name", "require_it_can_work", "warnings"]

_LONGEST_NAME = 47  # KubeRay appends up to 16 characters of the 63
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_REDIS = re.compile(r"rediss?://([^:@/]*:\$\{\w+\}@)?[\w.-]+:\d+")


def kubernetes_name(pipeline: str) -> str:
    """The pipeline's name as Kubernetes allows it.

    Raises:
        SetupError: it cannot be made of it.
    """
    name = pipeline.lower().replace("_", "-").replace(".", "-")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise SetupError(
            f"the pipeline's name {pipeline!r} cannot be the name of a RayService: write 'name:' in the pipeline file, "
            f"with at most {_LONGEST_NAME} letters, digits and '-', the first of them a letter"
        )
    return name


def require_it_can_work(
    target: Target,
    wanted: Iterable[Demand],
    groups: Sequence[WorkerGroup],
    gateway: GatewayConfig,
    intake: IntakeConfig | None,
) -> None:
    """
    Raises:
        SetupError: something cannot work there; the message has a line for each.
    """
    mistakes = [
        *_upgrade(target),
        *_too_large(target, wanted),
        *(intake.of_one_node if intake is not None else ()),
        *_loopback(target, gateway, intake),
        *_passwords(target, gateway, intake),
    ]
    if not groups:
        mistakes.append("no deployment reserves anything")
    if mistakes:
        raise SetupError("\n".join(mistakes))


def warnings(target: Target, plan: Plan, wanted: Iterable[Demand], *, in_redis: bool = True) -> list[str]:
    """What may be unintended, one line each; ``in_redis``: the cluster is to survive its head pod."""
    found = []
    if in_redis and target.redis is None:
        found.append(
            "the cluster's state is lost with the head pod, and requests fail until a new cluster runs; "
            "--redis redis://HOST:6379 keeps it"
        )
    if target.gpu_type is not None and in_redis and not any(each.gpus for each in wanted):
        found.append("--gpu-type has no effect: no step reserves a GPU (serve: num_gpus)")
    found += [
        f"step '{step.name}': the image must have the package of {step.class_path}; see Dockerfile"
        for step in plan
        if not step.class_path.startswith("classifiers.")
    ]
    found += [
        f"step '{model.steps[0]}': the model {model.ref} is a path of this machine and must exist in the pods; "
        "name it relative to /models instead"
        for model in required_models(plan)
        if Path(model.ref).is_absolute()
    ]
    return found


def _upgrade(target: Target) -> Iterator[str]:
    if target.upgrade == "incremental" and target.gateway_class is None:
        yield "--upgrade incremental shifts requests by the Gateway API: name its class with --gateway-class"
    if target.redis is not None and not _REDIS.fullmatch(target.redis):
        yield (
            "--redis: write redis://HOST:PORT, or redis://:${NAME}@HOST:PORT with a password; "
            "the variable NAME comes from a Secret"
        )


def _too_large(target: Target, wanted: Iterable[Demand]) -> Iterator[str]:
    memory_gib = GIB_PER_CPU * target.worker_cpus
    for each in wanted:
        if each.cpus > target.worker_cpus:
            yield (
                f"'{each.name}' reserves {each.cpus:g} CPUs; a worker pod has {target.worker_cpus}: "
                "raise --worker-cpus or lower num_cpus"
            )
        if each.gpus > target.worker_gpus:
            yield (
                f"'{each.name}' reserves {each.gpus:g} GPUs; a worker pod has {target.worker_gpus}: "
                "raise --worker-gpus or lower num_gpus"
            )
        if each.memory_bytes > memory_gib * 2**30:
            yield (
                f"'{each.name}' reserves {each.memory_bytes / 2**30:.1f} GiB of memory; a worker pod has "
                f"{memory_gib}: raise --worker-cpus ({GIB_PER_CPU} GiB each) or lower memory_mb"
            )
        if each.resources:
            yield (
                f"'{each.name}' reserves the custom resource '{next(iter(each.resources))}', which no pod has: "
                "use num_gpus with --gpu-type"
            )


def _loopback(target: Target, gateway: GatewayConfig, intake: IntakeConfig | None) -> Iterator[str]:
    urls = {"--redis": target.redis, "gateway.rate_limits.redis_url": gateway.rate_limits.redis_url}
    stores = {"gateway.fetch": gateway.fetch}
    if intake is not None:
        urls |= {"intake.queue": intake.queue, "intake.results": intake.results}
        stores["intake.fetch"] = intake.fetch
    for where, fetch in stores.items():
        urls |= {f"{where}.s3.endpoint_url": fetch.s3.endpoint_url, f"{where}.gs.endpoint_url": fetch.gs.endpoint_url}
    for where, url in urls.items():
        if url and _host(url) in LOOPBACK_HOSTS:
            yield f"{where}: {_host(url)} is the pod itself; write the name of a Service"
    if gateway.hosts and set(gateway.hosts) <= set(LOOPBACK_HOSTS):
        yield "gateway.hosts: only requests to this machine's own names are accepted; add the public name"


def _host(url: str) -> str | None:
    endpoint = parse_qs(urlsplit(url).query).get("endpoint_url")
    return urlsplit(endpoint[0] if endpoint else url).hostname


def _passwords(target: Target, gateway: GatewayConfig, intake: IntakeConfig | None) -> Iterator[str]:
    urls = {"--redis": target.redis, "gateway.rate_limits.redis_url": gateway.rate_limits.redis_url}
    if intake is not None:
        urls["intake.queue"] = intake.queue
    for where, url in urls.items():
        password = urlsplit(url).password if url else None
        if password and not password.startswith("${"):
            yield f"{where}: the password would be in the manifest; write ${{NAME}}, which comes from a Secret"
