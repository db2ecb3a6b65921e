"""The ``intake:`` block: the queue that images come from, where results go, and the workers' deployment options."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from classifiers import SetupError
from classifiers.validation import Closed
from serve_app.autoscaling import BacklogAutoscaling
from serve_app.config.blocks import absolute_path, folder_of, read_block
from serve_app.config.gateway_config import FetchConfig, FolderPath
from serve_app.queues.urls import FORMS, QueueUrl
from serve_app.results import objects_from_uri, uri_below
from serve_app.results.retention import Ages

__all__ = ["KEEP_IMAGES", "IntakeConfig", "Retention", "SourcesConfig", "local_intake", "read_intake_config"]

KEEP_IMAGES = r"^(never|failed|always|sample (100|\d{1,2})(\.\d+)?%)$"
"""What ``keep_images`` may be."""

_MISSING = {
    "queue": f"say where images come from: {', '.join(FORMS.values())}",
    "results": "say where results go: s3://bucket/prefix, or a folder's absolute path",
}


def _beside(uri: str, folder: Path) -> str:
    """The URL of a queue or of results; a relative path in it is relative to a folder."""
    if uri.startswith("sqlite:///"):
        file, *query = uri.removeprefix("sqlite:///").split("?", 1)
        return "?".join([f"sqlite:///{folder / file if file else ''}", *query])  # an empty path is an error
    return uri if "://" in uri or not uri else str(folder / uri)


def _queue_url(text: str, info: ValidationInfo) -> str:
    text = _beside(text, folder_of(info))
    try:
        url = QueueUrl.parse(text)
    except SetupError as error:
        raise ValueError(str(error)) from error
    if url.scheme == "sqlite" and not url.path.startswith("/"):
        raise ValueError(
            f"'{url.base}' must name a file by its absolute path, with four slashes (sqlite:////data/jobs.db): the "
            "replicas run in folders of their own"
        )
    return text


def _results_uri(text: str, info: ValidationInfo) -> str:
    text = _beside(text, folder_of(info))
    try:
        objects_from_uri(text)
    except SetupError as error:
        raise ValueError(str(error)) from error
    return text if urlsplit(text).scheme else absolute_path(text, info)


class SourcesConfig(FetchConfig):
    """What workers fetch for messages without a key. Nothing, by default."""

    files: tuple[FolderPath, ...] = Field(
        (), description="Folders that file:// addresses may lie in; only with a queue on this machine (sqlite://)"
    )


class Retention(Closed):
    """How many days things are kept after they were written; ``None``: forever."""

    images_days: float | None = Field(None, gt=0, description="Images that clients sent with jobs")
    results_days: float | None = Field(
        None, gt=0, description="Results: JSON, annotated pictures, rows in Parquet, and the markers of their jobs"
    )
    failures_days: float | None = Field(None, gt=0, description="Failures, and jobs that never ended")

    @property
    def ages(self) -> Ages:
        """The same as durations."""
        days = (self.images_days, self.results_days, self.failures_days)
        return Ages(*(None if each is None else timedelta(days=each) for each in days))


class IntakeConfig(Closed):
    """Images from a queue, and their results."""

    queue: Annotated[str, AfterValidator(_queue_url)] = Field(description="URL of the queue")
    results: Annotated[str, AfterValidator(_results_uri)] = Field(
        description="Where jobs and results are kept: s3://bucket/prefix, or a folder that all nodes share"
    )
    images: Annotated[str, AfterValidator(_results_uri)] | None = Field(
        None,
        description="Where images are kept that clients send with jobs: s3://bucket/prefix, or a folder that all nodes "
        "share; default: images/ below the results",
    )
    keep_images: str = Field(
        "never",
        pattern=KEEP_IMAGES,
        description="Which images are kept for later labelling, beside those that come with jobs: never, failed (where "
        "a step failed or timed out), 'sample 1%' (and the failed ones), or always",
    )
    retention: Retention = Field(
        default_factory=Retention,
        description="How long images and results are kept; workers delete what is older, in small steps",
    )
    fetch: SourcesConfig = Field(
        default_factory=SourcesConfig,
        description="What is fetched for messages that do not come from the gateway, and for jobs of a gateway with "
        "auth: none. For jobs of a key, the gateway's rules apply",
    )
    reuse_results: bool = Field(False, description="Reuse the result of the same image and pipeline; over HTTP too")
    in_flight: int | None = Field(
        None, ge=1, le=10_000, description="Concurrent images of a worker; default: twice what the first step takes"
    )
    timeout_s: float = Field(300, gt=0, description="Longest time for one image, once it has been fetched")
    max_attempts: int = Field(
        8, ge=1, le=100, description="Attempts of a job that fails for transient reasons, before it is a dead letter"
    )
    retry_after_s: float = Field(1, gt=0, description="Before the second attempt; doubled before each further one")
    stop_s: float = Field(30, gt=0, description="Time for a stopping worker to finish its images; others are requeued")
    compact_every_s: float = Field(300, gt=0, description="How often results are moved to Parquet")
    num_cpus: float = Field(0.25, ge=0, description="CPUs that a worker reserves on its node; not a limit")
    num_replicas: int | None = Field(None, ge=1, description="Workers; default 1. Not together with autoscaling")
    autoscaling: BacklogAutoscaling | None = Field(None, description="Let the backlog choose the number of workers")

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> IntakeConfig:
        if self.num_replicas is not None and self.autoscaling is not None:
            raise ValueError("give num_replicas or autoscaling, not both")
        return self

    @model_validator(mode="after")
    def _files_only_with_a_local_queue(self) -> IntakeConfig:
        if self.fetch.files and not self.queue.startswith("sqlite:"):
            raise ValueError(
                "fetch.files: who can write to the queue could read files of this machine; only a local queue "
                "(sqlite://) takes file:// addresses"
            )
        return self

    @property
    def images_uri(self) -> str:
        """Where images are kept that clients send with jobs."""
        return self.images or uri_below(self.results, "images")

    @property
    def of_one_node(self) -> list[str]:
        """Errors for what other nodes cannot reach."""
        found = []
        if self.queue.startswith("sqlite:"):
            found.append("intake.queue: an SQLite file is on one node; use amqp://, redis://, sqs:// or pubsub://")
        if urlsplit(self.results).scheme not in ("s3", "gs"):
            found.append(f"intake.results: the folder {self.results} is on one node; use s3:// or gs://")
        if self.images is not None and urlsplit(self.images).scheme not in ("s3", "gs"):
            found.append(f"intake.images: the folder {self.images} is on one node; use s3:// or gs://")
        return found

    @property
    def most_replicas(self) -> int:
        """The most workers."""
        return self.autoscaling.max_replicas if self.autoscaling is not None else self.num_replicas or 1


def read_intake_config(block: str | Path | Mapping[str, Any], **given: str | None) -> IntakeConfig:
    """Read the block, or the YAML file that a path names; see :func:`serve_app.config.blocks.read_block`.

    Args:
        given: ``queue`` or ``results`` in place of that in the block, unless ``None``; relative paths are relative to
            the current folder.
    """
    replaced = {key: _beside(value, Path.cwd()) for key, value in given.items() if value is not None}
    return read_block(IntakeConfig, "intake", block, _MISSING, **replaced)


def local_intake(folder: Path, files: Path | None) -> dict[str, Any]:
    """A block for jobs on this machine alone, with nothing installed: an SQLite file and a folder of results.

    Args:
        folder: of both; created when it is missing.
        files: the folder that file:// addresses may lie in, if any. Addresses of the public web are fetched, too.
    """
    folder = folder.absolute()
    return {
        "queue": f"sqlite:///{folder / 'jobs.db'}",
        "results": str(folder / "results"),
        "fetch": {"files": [str(files.absolute())] if files is not None else [], "schemes": ["https", "http"]},
    }
