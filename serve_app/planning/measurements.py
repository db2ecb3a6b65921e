"""What one image costs, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from classifiers.validation import Closed, mistake
from serve_app.planning.yaml_files import read_model

__all__ = ["BatchTime", "Measurements", "StepMeasurements", "read_measurements"]


class BatchTime(Closed):
    """The time of one call of a classifier."""

    duration_s: float = Field(gt=0, description="Seconds from call to return.", examples=[0.04])
    cpu_s: float = Field(ge=0, description="CPU seconds of the process meanwhile.", examples=[0.04])
    gpu_s: float | None = Field(None, ge=0, description="GPU seconds; null: not measured on a GPU.", examples=[0.004])


class StepMeasurements(Closed):
    """One step on the images of a sample."""

    images: int = Field(ge=0, description="Images on which it ran.", examples=[120])
    crops: dict[int, int] = Field(
        default_factory=dict,
        description="How many of those images had N crops, by N. A step on the whole image has 1.",
        examples=[{1: 70, 2: 50}],
    )
    prepare_cpu_s: float = Field(
        0,
        ge=0,
        description="CPU seconds per image on which it ran, for decoding, cutting and the answer.",
        examples=[0.01],
    )
    batches: dict[int, BatchTime] = Field(
        default_factory=dict, description="The time of one call, by the number of crops in it."
    )
    memory_mb: float = Field(0, ge=0, description="Memory that loading the model took, in MiB.", examples=[350])
    bytes_in: float = Field(0, ge=0, description="Bytes of pixels per crop.", examples=[150528])
    bytes_out: float = Field(0, ge=0, description="Bytes of its result per image, as JSON.", examples=[900])

    @field_validator("crops")
    @classmethod
    def _counts(cls, value: dict[int, int]) -> dict[int, int]:
        if any(crops < 1 or images < 0 for crops, images in value.items()):
            mistake("numbers of crops must be at least 1, and numbers of images at least 0")
        return value

    @field_validator("batches")
    @classmethod
    def _sizes(cls, value: dict[int, BatchTime]) -> dict[int, BatchTime]:
        if any(batch < 1 for batch in value):
            mistake("batch sizes must be at least 1")
        return value

    @property
    def total_crops(self) -> int:
        """Crops of all images."""
        return sum(crops * images for crops, images in self.crops.items())

    def crops_at(self, share: float) -> int:
        """The number of crops that ``share`` (0..1) of the images on which it ran do not exceed."""
        left = share * sum(self.crops.values())
        for crops in sorted(self.crops):
            left -= self.crops[crops]
            if left <= 1e-9:
                return crops
        return max(self.crops, default=0)

    def best_batch(self, most: int) -> tuple[int, BatchTime]:
        """The measured batch of at most ``most`` crops that costs least per crop."""
        fitting = {batch: time for batch, time in self.batches.items() if batch <= most} or dict(
            [min(self.batches.items())]
        )
        return min(fitting.items(), key=lambda each: each[1].duration_s / each[0])


class Measurements(Closed):
    """What the images of a sample cost."""

    source: str = Field(
        description="Where the figures come from: machine, date, sample.", examples=["8 cores, 2026-11"]
    )
    images: int = Field(ge=1, description="Images that were run and did not fail.", examples=[200])
    failed: int = Field(0, ge=0, description="Images that failed; they count in nothing else.", examples=[0])
    bytes_per_image: float = Field(ge=0, description="Mean bytes of an encoded image.", examples=[180000])
    result_bytes: float = Field(0, ge=0, description="Mean bytes of a result as JSON.", examples=[1200])
    entry_cpu_s: float = Field(
        ge=0, description="CPU seconds per image of the gateway or worker itself, without steps.", examples=[0.004]
    )
    message_cpu_s: float = Field(
        0.002,
        ge=0,
        description="CPU seconds, at each end, of one call between two processes. A sample in one process has no such "
        "call; the default is an assumption, to be replaced by a figure of a running server.",
        examples=[0.002],
    )
    steps: Mapping[str, StepMeasurements] = Field(description="By the name of the step.")


def read_measurements(path: str | Path) -> Measurements:
    """Read a YAML or JSON file, such as ``--save-measurements`` writes.

    Raises:
        SetupError: it cannot be read, or has errors; all are named.
    """
    return read_model(path, Measurements, "measurements file")
