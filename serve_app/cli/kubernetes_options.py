"""Options of ``visiongraph render --kubernetes``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = [
    "GatewayClassOption",
    "GpuTypeOption",
    "HeadCpusOption",
    "ImageOption",
    "KubernetesOption",
    "ModelsOption",
    "NamespaceOption",
    "RedisOption",
    "UpgradeOption",
    "WorkerCpusOption",
    "WorkerGpusOption",
]

_PANEL = "With --kubernetes"

KubernetesOption = Annotated[bool, typer.Option("--kubernetes", help="Print manifests for the KubeRay operator.")]
ImageOption = Annotated[
    str | None,
    typer.Option(
        help="Image of the pods, see Dockerfile; default: visiongraph with this version.", rich_help_panel=_PANEL
    ),
]
NamespaceOption = Annotated[str, typer.Option(help="Namespace of everything.", rich_help_panel=_PANEL)]
HeadCpusOption = Annotated[int, typer.Option(help="CPUs of the head pod.", min=1, rich_help_panel=_PANEL)]
WorkerCpusOption = Annotated[int, typer.Option(help="CPUs of a worker pod.", min=1, rich_help_panel=_PANEL)]
WorkerGpusOption = Annotated[
    int, typer.Option(help="GPUs of a worker pod for steps that reserve some.", min=1, rich_help_panel=_PANEL)
]
GpuTypeOption = Annotated[
    str | None,
    typer.Option(
        metavar="TYPE",
        help="Nodes with such a GPU: NVIDIA-L4, or a label KEY=VALUE; default: any.",
        rich_help_panel=_PANEL,
    ),
]
RedisOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Redis that keeps the cluster's state when its head pod dies: redis://:${PASSWORD}@HOST:6379.",
        rich_help_panel=_PANEL,
    ),
]
ModelsOption = Annotated[
    str,
    typer.Option(
        metavar="image|download|CLAIM",
        help="Where the models are: in the image, fetched by each pod, or in a PersistentVolumeClaim.",
        rich_help_panel=_PANEL,
    ),
]
UpgradeOption = Annotated[
    Literal["new-cluster", "incremental"],
    typer.Option(help="How a changed cluster replaces the running one.", rich_help_panel=_PANEL),
]
GatewayClassOption = Annotated[
    str | None,
    typer.Option(
        metavar="CLASS", help="Class of the Gateway API that an incremental upgrade uses.", rich_help_panel=_PANEL
    ),
]
