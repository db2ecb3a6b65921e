"""The ``intake:`` block: the queue that images come from, where results go, and the workers' deployment options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from classifiers import SetupError
from serve_app.autoscaling import BacklogAutoscaling
from serve_app.config.blocks import in_words, read_block
from serve_app.config.gateway_config import FetchConfig, FolderPath
from serve_app.queues.urls import FORMS, QueueUrl
from serve_app.results import objects_from_uri

__all__ = ["IntakeConfig", "SourcesConfig", "local_intake", "read_intake_config"]

_MISSING = {
    "queue": f"say where images come from: {', '.join(form for scheme, form in FORMS.items() if scheme[-1] != 's')}",
    "results": "say where results go: s3://bucket/prefix, or a folder's absolute path",
}


def _queue_url(text: str) -> str:
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


def _results_uri(text: str) -> str:
    try:
        objects_from_uri(text)
    except SetupError as error:
        raise ValueError(str(error)) from error
    if not urlsplit(text).scheme and not Path(text).is_absolute():
        raise ValueError(f"'{text}' must be an absolute path: the replicas run in folders of their own")
    return text


class SourcesConfig(FetchConfig):
    """What workers fetch for messages that no key answers for. Nothing, by default."""

    files: tuple[FolderPath, ...] = Field(
        (), description="Folders that file:// addresses may lie in; only with a queue on this machine (sqlite://)"
    )


class IntakeConfig(BaseModel):
    """Images from a queue, and what becomes of them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: Annotated[str, AfterValidator(_queue_url)] = Field(description="URL of the queue")
    results: Annotated[str, AfterValidator(_results_uri)] = Field(
        description="Where jobs and results are kept: s3://bucket/prefix, or a folder that all nodes share"
    )
    fetch: SourcesConfig = Field(
        default_factory=SourcesConfig,
        description="What is fetched for messages that others than the gateway put on the queue, and for jobs of an "
        "open gateway (auth: none). Jobs of a key may have what the key may have",
    )
    reuse_results: bool = Field(
        False, description="Answer an image that was seen before, by the same pipeline, with its result; over HTTP too"
    )
    in_flight: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Images that a worker processes at a time; default: twice what the first step takes",
    )
    timeout_s: float = Field(300, gt=0, description="Longest time for one image, once it has been fetched")
    max_attempts: int = Field(
        8,
        ge=1,
        le=100,
        description="Tries for what may pass (a source that fails, a step that died); then a dead letter",
    )
    retry_after_s: float = Field(
        1, gt=0, description="Wait before the second try; twice as long before each further one"
    )
    stop_s: float = Field(
        30, gt=0, description="Time for a worker that is stopped to finish its images; the rest is requeued"
    )
    compact_every_s: float = Field(300, gt=0, description="How often results are moved to Parquet")
    num_cpus: float = Field(0.25, ge=0, description="CPUs that a worker reserves; bookkeeping, not a limit")
    num_replicas: int | None = Field(None, ge=1, description="Workers; default 1. Not together with autoscaling")
    autoscaling: BacklogAutoscaling | None = Field(None, description="Let the backlog choose the number of workers")

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> IntakeConfig:
        if self.num_replicas is not None and self.autoscaling is not None:
            raise ValueError("give num_replicas or autoscaling, not both")
        return self

    @model_validator(mode="after")
    def _files_only_here(self) -> IntakeConfig:
        if self.fetch.files and not self.queue.startswith("sqlite:"):
            raise ValueError(
                "fetch.files: who can write to the queue could read files of this machine; only a local queue "
                "(sqlite://) takes file:// addresses"
            )
        return self

    @property
    def most_replicas(self) -> int:
        """Workers that there may be."""
        return self.autoscaling.max_replicas if self.autoscaling is not None else self.num_replicas or 1


def read_intake_config(block: str | Path | Mapping[str, Any], **given: str | None) -> IntakeConfig:
    """Read the block, or the YAML file that a path names. Relative paths in a file are relative to it.

    Args:
        block: the block, or the file.
        given: keys that count instead of those in the block, unless ``None``; relative paths are relative to the
            current folder.

    Raises:
        SetupError: it cannot be read, or has mistakes; the message has a line for each.
    """
    if not isinstance(block, Mapping):
        block, folder = read_block(block, "intake", "'queue' and 'results'")
        block = _with_absolute_paths(block, folder)
    said = {key: value for key, value in given.items() if value is not None}
    if said and isinstance(block, Mapping):
        block = {**block, **_with_absolute_paths(said, Path.cwd())}
    try:
        return IntakeConfig.model_validate(block)
    except ValidationError as error:
        raise SetupError(in_words(error, "intake", IntakeConfig, _MISSING)) from error


def local_intake(folder: Path, files: Path | None) -> dict[str, Any]:
    """A block for jobs on this machine alone, with nothing installed: an SQLite file and a folder of results.

    Args:
        folder: where they lie; made when it is not there.
        files: the folder that file:// addresses may lie in, if any. Addresses of the public web may be sent, too.
    """
    folder = folder.absolute()
    return {
        "queue": f"sqlite:///{folder / 'jobs.db'}",
        "results": str(folder / "results"),
        "fetch": {"files": [str(files.absolute())] if files is not None else [], "schemes": ["https", "http"]},
    }


def _with_absolute_paths(block: Any, folder: Path) -> Any:
    """The block with the paths in it taken from ``folder`` where they are relative."""
    if not isinstance(block, Mapping):
        return block

    def beside(path: Any) -> Any:  # an empty one, a variable that is not set, and what is no string are mistakes
        return str(folder / path) if isinstance(path, str) and path else path

    block = dict(block)
    queue, results, fetch = block.get("queue"), block.get("results"), block.get("fetch")
    if isinstance(queue, str) and queue.startswith("sqlite:///"):
        file, *query = queue.removeprefix("sqlite:///").split("?", 1)
        block["queue"] = "?".join([f"sqlite:///{beside(file)}", *query])
    if isinstance(results, str) and "://" not in results:
        block["results"] = beside(results)
    if isinstance(fetch, Mapping) and isinstance(fetch.get("files"), list | tuple):
        block["fetch"] = {**fetch, "files": [beside(file) for file in fetch["files"]]}
    return block
