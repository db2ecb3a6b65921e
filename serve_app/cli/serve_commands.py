"""Commands that need Ray: ``render``, ``serve``, ``demo``."""

from __future__ import annotations

import contextlib
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from classifiers import SetupError
from serve_app.cli import kubernetes_options as k8s
from serve_app.cli.arguments import (
    DashboardPortOption,
    GatewayOption,
    IntakeOption,
    PipelineArgument,
    PortOption,
    QueueOption,
    ResultsOption,
    stderr,
)
from serve_app.cli.phases import phases

__all__ = ["demo", "render", "serve"]


def render(
    pipeline: PipelineArgument,
    gateway: GatewayOption = None,
    intake: IntakeOption = None,
    queue: QueueOption = None,
    results: ResultsOption = None,
    host: Annotated[str, typer.Option(help="Address that the HTTP endpoint binds.")] = "127.0.0.1",
    port: PortOption = 8000,
    kubernetes: k8s.KubernetesOption = False,
    image: k8s.ImageOption = None,
    namespace: k8s.NamespaceOption = "visiongraph",
    head_cpus: k8s.HeadCpusOption = 2,
    worker_cpus: k8s.WorkerCpusOption = 4,
    worker_gpus: k8s.WorkerGpusOption = 1,
    gpu_type: k8s.GpuTypeOption = None,
    redis: k8s.RedisOption = None,
    models: k8s.ModelsOption = "image",
    upgrade: k8s.UpgradeOption = "new-cluster",
    gateway_class: k8s.GatewayClassOption = None,
    batch: k8s.BatchOption = None,
    out: k8s.OutOption = None,
    in_flight: k8s.InFlightOption = 8,
    fit: Annotated[
        str | None, typer.Option(metavar="MACHINE", help="Fit replicas and placement to cpus=N, if the file sets none.")
    ] = None,
) -> None:
    """Print the Serve config file of a pipeline: visiongraph render PIPELINE > serve.yaml && serve deploy serve.yaml.

    The structure is in args; what can change in place (thresholds, rules, batch sizes) is in user_config. --intake, or
    --queue and --results, add workers, and jobs over HTTP. With --kubernetes it prints manifests, for kubectl apply.
    """
    from serve_app.config import LOOPBACK_HOSTS, read_gateway_config, read_intake_config
    from serve_app.deployments.fitting import Machine
    from serve_app.deployments.options import OPEN_GATEWAY
    from serve_app.kubernetes import Batch, Target, render_batch, render_kubernetes
    from serve_app.rendering.serve_file import render as render_config

    if kubernetes and (host, port) != ("127.0.0.1", 8000):
        raise SetupError("--host and --port cannot be combined with --kubernetes: pods listen on 0.0.0.0:8000")
    if kubernetes and fit is not None:
        raise SetupError("--fit cannot be combined with --kubernetes: pods are added for what the deployments reserve")
    machine = None if fit is None else Machine.parse(fit)
    if batch and not (kubernetes and out):
        raise SetupError("--batch needs --kubernetes, and --out with the place of the results")
    if gateway is None and not batch and (kubernetes or host not in LOOPBACK_HOSTS):
        option = "--kubernetes" if kubernetes else f"--host {host}"
        raise SetupError(
            f"{option} lets others reach the endpoint: configure authentication with --gateway FILE; "
            "its minimum is 'auth: none'"
        )
    config = OPEN_GATEWAY if gateway is None else read_gateway_config(gateway)
    has_intake = intake is not None or queue is not None or results is not None
    workers = read_intake_config(intake or {}, queue=queue, results=results) if has_intake else None
    if not kubernetes:
        for problem in workers.of_one_node if workers is not None and host not in LOOPBACK_HOSTS else ():
            _warn(problem)
        sys.stdout.write(render_config(pipeline, gateway=config, intake=workers, host=host, port=port, machine=machine))
        return
    target = Target(
        image=image or f"visiongraph:{version('visiongraph')}",
        namespace=namespace,
        head_cpus=head_cpus,
        worker_cpus=worker_cpus,
        worker_gpus=worker_gpus,
        gpu_type=gpu_type,
        redis=redis,
        models=models,
        upgrade=upgrade,
        gateway_class=gateway_class,
    )
    if batch and out:
        sys.stdout.write(render_batch(pipeline, target, Batch(batch, out, in_flight), warn=_warn))
        return
    sys.stdout.write(render_kubernetes(pipeline, target, gateway=config, intake=workers, warn=_warn))


def _warn(message: str) -> None:
    stderr.print(f"[yellow]warning:[/] {message}", soft_wrap=True)


def serve(
    pipeline: PipelineArgument,
    gateway: GatewayOption = None,
    intake: IntakeOption = None,
    queue: QueueOption = None,
    results: ResultsOption = None,
    port: PortOption = 8000,
    dashboard_port: DashboardPortOption = 8265,
    fit: Annotated[bool, typer.Option(help="Fit replicas and placement to this machine if the file sets none.")] = True,
) -> None:
    """Serve a pipeline over HTTP on this machine until Ctrl-C: starts Ray and Serve in the fast configuration.

    Without --gateway there is no authentication on this machine. Without --intake jobs are queued in an SQLite file and
    results are stored beside it, in visiongraph-jobs/NAME; images come from the current folder or the public web.
    """
    from graph import load_plan
    from serve_app.config import read_gateway_config, read_intake_config
    from serve_app.config.intake_config import local_intake
    from serve_app.deployments import OPEN_GATEWAY
    from serve_app.deployments.fitting import Machine, fit_to
    from serve_app.local.serving import serving
    from serve_app.telemetry.exporting import ExportSettings, targets

    config = OPEN_GATEWAY if gateway is None else read_gateway_config(gateway)
    files = Path() if queue is None or queue.startswith("sqlite:") else None
    local = local_intake(Path("visiongraph-jobs") / Path(pipeline).stem, files)
    workers = read_intake_config(intake or local, queue=queue, results=results)
    with contextlib.ExitStack() as stack:
        with phases(stderr) as begin:
            begin("checking the pipeline")
            plan, placement = load_plan(pipeline), []
            if fit:
                fitted = fit_to(Machine.this(), plan, config)
                plan, config = fitted.plan, fitted.gateway
                placement = [f"        placement          {fitted.choice}"]
                if fitted.is_changed:
                    placement += [
                        "        to change it       serve: options of the steps; --no-fit: one deployment per step"
                    ]
            server = stack.enter_context(
                serving(plan, port=port, dashboard_port=dashboard_port, gateway=config, intake=workers, report=begin)
            )
        url = server.http_url
        lines = [
            f"[green]ready[/]   POST an image to  {url}/v1/images",
            f"        or addresses to    {url}/v1/jobs",
            f"        their results in   {workers.results}",
            f"        API documentation  {url}/docs",
            f"        Ray dashboard      {server.dashboard_url}",
        ]
        if server.token_file is not None:
            lines.append(f"        its token is in    {server.token_file}")
        if processes := targets(ExportSettings.from_environment().folder, plan.name):
            more = f", and {len(processes) - 1} more processes" if processes[1:] else ""
            lines += [
                f"        metrics            http://{processes[0]}/metrics{more}",
                "        Prometheus         visiongraph metrics DIR writes a configuration that finds all of them",
            ]
        lines += [
            *placement,
            f"        try   curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg {url}/v1/images",
            "        Ctrl-C stops it",
        ]
        for line in lines:
            stderr.print(line, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):  # SIGTERM and SIGHUP raise it here too
            while True:
                time.sleep(1)
        with phases(stderr) as begin:
            begin("stopping")
            stack.close()


def demo(
    pipeline: Annotated[str, typer.Argument(metavar="[PIPELINE]", help="The pipeline file.")] = "configs/demo.yaml",
    photos: Annotated[
        list[Path] | None,
        typer.Option("--photo", metavar="FILE", help="Your photo; may be repeated.", exists=True, dir_okay=False),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the annotated pictures go.")] = Path("demo-output"),
    port: PortOption = 8000,
) -> None:
    """Serve a pipeline on this machine, post photos over HTTP, show what was found, and shut down.

    Without --photo: a street, two people and two cars.
    """
    from serve_app.cli.demo import run_demo

    run_demo(pipeline, photos or [], out, port=port)
