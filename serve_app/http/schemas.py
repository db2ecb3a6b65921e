"""The shapes of responses, for the OpenAPI document and for clients. Nothing is converted to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from classifiers.validation import Closed

__all__ = ["AcceptedJobs", "DeletedJob", "Health", "JobView", "PipelineView", "Result", "UploadView"]


class ResultImage(Closed):
    """The image of a result."""

    uri: str | None = Field(description="Its address; null when its bytes were sent")
    sha256: str = Field(description="Hash of the bytes as they were received")
    width: int = Field(description="Pixels of the upright image")
    height: int = Field(description="Pixels of the upright image")


class ResultPipeline(Closed):
    """The pipeline of a result."""

    name: str
    fingerprint: str = Field(description="Structure, rules, parameters, weights and code versions")


class ErrorView(Closed):
    """Why a step or a job has no result."""

    type: str
    detail: str


class ResultStep(Closed):
    """How a step ended."""

    name: str
    status: Literal["ok", "skipped", "failed", "timed_out"]
    duration_ms: float | None = None
    reason: str | None = Field(None, description="Why it was skipped")
    error: ErrorView | None = None


class Result(Closed):
    """What the pipeline found in one image."""

    id: str
    image: ResultImage
    pipeline: ResultPipeline
    context: dict[str, dict[str, Any]] = Field(description="The result of each step that is ok, by its name")
    steps: list[ResultStep]
    metadata: dict[str, Any]


class AcceptedJob(Closed):
    """A job that will be run."""

    id: str
    status_url: str = Field(description="Where to ask for its state")


class AcceptedJobs(Closed):
    """The jobs, in the order in which they were sent."""

    jobs: list[AcceptedJob]


class JobView(Closed):
    """The state of a job."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed"]
    result: Result | None = Field(description="Of a job that succeeded")
    error: ErrorView | None = Field(description="Of a job that failed")


class DeletedJob(Closed):
    """A job that was deleted."""

    id: str
    status: Literal["deleted"]


class UploadView(Closed):
    """A request that the client may send to the store."""

    uri: str = Field(description="The address of the image for POST /v1/jobs")
    method: Literal["PUT"]
    url: str
    headers: dict[str, str] = Field(description="To send with it; they are signed")
    expires: str = Field(description="ISO 8601 in UTC")


class StepView(Closed):
    """A step of the pipeline, enough to draw it."""

    name: str
    class_: str = Field(alias="class")
    depends_on: list[str]
    condition: str | None
    crops: str | None
    on_error: Literal["fail", "skip"]
    timeout_ms: int | None


class Edge(Closed):
    """A dependency."""

    source: str
    target: str


class PipelineView(Closed):
    """The pipeline that is served."""

    name: str
    fingerprint: str
    steps: list[StepView]
    edges: list[Edge]


class Health(Closed):
    """The server's own state."""

    status: Literal["ok", "ready"]
