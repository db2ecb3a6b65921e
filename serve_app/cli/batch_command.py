"""``visiongraph batch``: runs a pipeline on stored images, on Ray Data."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from classifiers import SetupError
from graph import load_plan
from serve_app.cli.arguments import MetadataOption, PipelineArgument, print_figures, stderr, stdout
from serve_app.cli.phases import phases
from serve_app.config import KEEP_IMAGES, SourcesConfig, read_intake_config
from serve_app.queues.protocol import MissingExtra
from serve_app.results import objects_from_uri
from serve_app.uris import scheme_of

if TYPE_CHECKING:
    from serve_app.bulk.running import BulkRun
    from serve_app.bulk.running import Progress as State

__all__ = ["batch"]

_NICE_BESIDE_OTHERS = 19


def batch(
    pipeline: PipelineArgument,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders, globs, s3://bucket/prefix/, gs://bucket/prefix/; .csv or .parquet files with a column uri "
            "or bytes; their other columns become metadata.",
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="URI", help="Where results are stored: s3://bucket/prefix, or a folder.")
    ],
    intake: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="YAML with the intake: block: its rules for fetching apply to tables, its keep_images and images to "
            "all.",
        ),
    ] = None,
    keep_images: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Which images are also stored, for labelling: never, failed, 'sample N%' or always; default: that of "
            "the intake: block, or never.",
        ),
    ] = None,
    metadata: MetadataOption = None,
    in_flight: Annotated[
        int, typer.Option(min=1, help="Concurrent chunks, one per process. A crash repeats at most these.")
    ] = 8,
    chunk_size: Annotated[int, typer.Option(min=1, help="Most images of a chunk; each chunk is a file.")] = 2000,
    skip_known: Annotated[
        bool, typer.Option(help="Skip images that have a result of this pipeline and have not changed since.")
    ] = True,
    restart: Annotated[bool, typer.Option("--restart", help="Start from the beginning instead of continuing.")] = False,
    max_failures: Annotated[
        str, typer.Option(metavar="N|N%", help="Most failed images; a percentage applies after the first 1,000 images.")
    ] = "50%",
    timeout_s: Annotated[float, typer.Option("--timeout", help="Longest time for one image, in seconds.")] = 300.0,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Run N random images, store nothing, and estimate the time for all."),
    ] = None,
    dashboard_port: Annotated[
        int | None, typer.Option(help="Port of Ray's dashboard on this machine; default: no dashboard.")
    ] = None,
) -> None:
    """Run a pipeline on stored images, and store the results where query finds them.

    The same command continues a run that was interrupted. It starts Ray on this machine; with RAY_ADDRESS in the
    environment it runs on that cluster.

    Example: visiongraph batch configs/demo.yaml s3://photos/2026/ --out s3://bucket/results
    """
    from serve_app.bulk.sources import allowed, open_sources

    plan = load_plan(pipeline)
    block = read_intake_config(intake) if intake else None
    config = block.fetch if block else SourcesConfig()
    rule = keep_images or (block.keep_images if block else "never")
    if not re.fullmatch(KEEP_IMAGES, rule):
        raise typer.BadParameter(f"'{rule}' is not never, failed, 'sample N%' or always", param_hint="--keep-images")
    sources, out = [_absolute(source) for source in sources], _absolute(out)
    most = _share_or_number(max_failures)
    fetch = allowed(sources, config)
    open_sources(sources, fetch)  # errors in them are reported before Ray starts
    objects_from_uri(out)
    with _ray(dashboard_port) as nice:
        from serve_app.bulk.chunk_runner import Job
        from serve_app.bulk.running import BulkRun, Settings

        images = block.images if block else None
        job = Job(plan, out, fetch, metadata or {}, timeout_s=timeout_s, nice=nice, keep_images=rule, images=images)
        run = BulkRun(job, sources, Settings(in_flight, chunk_size, skip_known, restart, most))
        if sample is not None:
            _print_sample(*run.sample(sample), run.processes)
            return
        try:
            _follow(run)
        except KeyboardInterrupt:
            done = run.progress.images
            stderr.print(f"Stopped. {done:,} images are done; the same command continues after them.", highlight=False)
            raise typer.Exit(1) from None


@contextmanager
def _ray(dashboard_port: int | None) -> Iterator[int]:
    """A cluster: the one in the environment, or one on this machine while the block lasts. Yields the niceness of its
    processes."""
    if find_spec("pandas") is None:
        raise MissingExtra("batch needs Ray Data; install it with: pip install 'visiongraph[bulk]'")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    if "RAY_ADDRESS" in os.environ:
        import ray

        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SetupError(f"there is no Ray cluster at RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {error}") from error
        try:
            yield _NICE_BESIDE_OTHERS
        finally:
            ray.shutdown()
    else:
        from serve_app.local.cluster import local_cluster

        with local_cluster(serve=False, dashboard_port=dashboard_port):
            yield 0


def _follow(run: BulkRun) -> None:
    with phases(stderr) as begin:
        begin("models loaded")
        states = run.chunks()
        next(states)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.completed:,} images"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[more]}"),
        console=stderr,
    ) as bars:
        bar = bars.add_task("", total=None, rate="", more="listing images")
        for state in states:
            more = []
            if state.total is not None and state.images_per_s:
                left_s = (state.total - state.images) / state.images_per_s
                more.append(f"{timedelta(seconds=round(left_s))} left")
            if state.failed:
                more.append(f"{state.failed:,} failed")
            if state.slowest is not None:
                more.append(f"slowest: {state.slowest}")
            bars.update(
                bar,
                completed=state.images,
                total=state.total,
                rate=f"{state.images_per_s:.1f}/s" if state.new else "",
                more=", ".join(more),
            )
    _print_summary(run.progress)


def _print_summary(state: State) -> None:
    seconds = timedelta(seconds=round(state.seconds))
    print_figures(
        {
            "images": f"{state.images:,}",
            "with a result": f"{state.images - state.failed:,}",
            "failed": f"{state.failed:,}",
            "left out, known": f"{state.known:,}",
            "by this command": f"{state.new:,} in {seconds}, {state.images_per_s:.1f}/s",
        }
    )
    statuses = ("ok", "skipped", "failed", "timed_out")
    steps = Table("step", *(Column(status.replace("_", " "), justify="right") for status in statuses))
    for name, counts in state.steps.items():
        steps.add_row(escape(name), *(f"{counts[status]:,}" for status in statuses))
    if state.steps:
        stdout.print(steps)
    if state.failed:
        reasons = Table(Column("images", justify="right"), Column("reason", overflow="fold"))
        for reason, count in state.reasons.most_common(10):
            reasons.add_row(f"{count:,}", escape(reason))
        stdout.print(reasons)


def _print_sample(total: int, counts: Mapping[str, Any], processes: int) -> None:
    rate = counts["images"] / counts["seconds"]
    print_figures(
        {
            "images": f"{total:,}",
            "tried": f"{counts['images']:,}, {counts['failed']:,} of them failed",
            "images/s of one process": f"{rate:.1f}",
            "processes here": str(processes),
            "all images": str(timedelta(seconds=round(total / rate / processes))),
            "process hours": f"{total / rate / 3600:,.2f}",
        }
    )
    for reason, count in counts["reasons"].items():
        stderr.print(f"{count:,} x {escape(reason)}", highlight=False)


def _absolute(address: str) -> str:
    """An address that is valid in every process."""
    return address if scheme_of(address) or not address else str(Path(address).absolute())


def _share_or_number(text: str) -> int | float:
    try:
        value = float(text.removesuffix("%")) / 100 if text.endswith("%") else int(text)
    except ValueError:
        value = -1
    if value < 0 or (isinstance(value, float) and not value <= 1):
        raise typer.BadParameter(f"'{text}' is not a number or percentage", param_hint="--max-failures")
    return value
