"""The shapes of responses, for the OpenAPI document and for clients. Nothing is converted to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from classifiers.validation import Closed

__all__ = [
    "AcceptedJobs",
    "DeletedJob",
    "Explanation",
    "Health",
    "JobView",
    "PipelineView",
    "Result",
    "UploadView",
    "WhatIf",
]


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


class StepTimings(Closed):
    """The duration of a step in parts."""

    queue_ms: float = Field(description="The rest: waiting for a replica and its model, and the way there and back")
    decode_ms: float = Field(description="Decoding the image, cutting crops, checking the result")
    model_ms: float = Field(description="The model's batches that the image was in")


class ResultStep(Closed):
    """How a step ended."""

    name: str
    status: Literal["ok", "skipped", "failed", "timed_out"]
    duration_ms: float | None = None
    reason: str | None = Field(None, description="Why it was skipped")
    error: ErrorView | None = None
    timings: StepTimings | None = Field(None, description="Where the model ran")
    replica: str | None = Field(None, description="The process that answered, on Ray Serve")


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


class DecisionView(Closed):
    """One evaluation of a rule."""

    rule: str
    subject: str = Field(description="What it was evaluated for: image, or a detection such as '#3 person 0.87'")
    held: bool | None = Field(description="Null: it could not be evaluated")
    values: list[tuple[str, Any]] = Field(description="Parts of the rule that decided it, with their values")
    error: str | None


class ExplainedStep(Closed):
    """Why one step ran or not."""

    name: str
    status: Literal["ok", "skipped", "failed", "timed_out"]
    why: str | None
    condition: DecisionView | None
    crops: list[DecisionView]


class Explanation(Closed):
    """A result, and why each of its steps ran or not."""

    result: Result
    steps: list[ExplainedStep]


class StepCount(Closed):
    """In how many results a step runs."""

    runs: int
    crops: int
    unknown: int = Field(description="Results without what the step depends on")


class ChangedStep(Closed):
    """A step under the present rules and under the other ones."""

    name: str
    before: StepCount
    after: StepCount


class WhatIf(Closed):
    """What other rules would change."""

    results: int
    steps: list[ChangedStep]


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
