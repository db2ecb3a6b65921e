"""Options of ``visiongraph render --kubernetes``."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

__all__ = [
    "BatchOption",
    "GatewayClassOption",
    "GpuTypeOption",
    "HeadCpusOption",
    "ImageOption",
    "InFlightOption",
    "KubernetesOption",
    "ModelsOption",
    "NamespaceOption",
    "OutOption",
    "RedisOption",
    "UpgradeOption",
    "WorkerCpusOption",
    "WorkerGpusOption",
]

_option = partial(typer.Option, rich_help_panel="With --kubernetes")

KubernetesOption = Annotated[bool, typer.Option("--kubernetes", help="Print manifests for the KubeRay operator.")]
ImageOption = Annotated[str | None, _option(help="Image of the pods; default: visiongraph with this version.")]
NamespaceOption = Annotated[str, _option(help="Namespace of all objects.")]
HeadCpusOption = Annotated[int, _option(help="CPUs of the head pod.", min=1)]
WorkerCpusOption = Annotated[int, _option(help="CPUs of a worker pod.", min=1)]
WorkerGpusOption = Annotated[int, _option(help="GPUs of a worker pod for steps that reserve GPUs.", min=1)]
GpuTypeOption = Annotated[
    str | None, _option(metavar="TYPE", help="GPU type of the nodes: NVIDIA-L4, or a label KEY=VALUE; default: any.")
]
RedisOption = Annotated[
    str | None,
    _option(
        metavar="URL",
        help="Redis that keeps the cluster's state when its head pod dies: redis://:${PASSWORD}@HOST:6379.",
    ),
]
ModelsOption = Annotated[
    str,
    _option(
        metavar="image|download|CLAIM",
        help="Where the models are: in the image, downloaded by each pod, or in a PersistentVolumeClaim.",
    ),
]
UpgradeOption = Annotated[
    Literal["new-cluster", "incremental"], _option(help="How a changed cluster replaces the running one.")
]
BatchOption = Annotated[
    list[str] | None,
    _option(metavar="SOURCE", help="Print a RayJob that runs over stored images; may be repeated."),
]
OutOption = Annotated[str | None, _option(metavar="URI", help="Where the results of --batch are stored.")]
InFlightOption = Annotated[int, _option(help="Processes of --batch, at most.", min=1)]
GatewayClassOption = Annotated[str | None, _option(metavar="CLASS", help="Gateway API class for incremental upgrades.")]
