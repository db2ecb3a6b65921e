"""Errors of running a pipeline on one image. Extends the tree of ``classifiers.errors``::

VisionError
├── InputError
│   └── Malformed     what came with the image (metadata, an id, an address) cannot be understood or stored
├── StepFailed        a step with ``on_error: fail`` failed (field ``step``)
├── DeadlineExceeded  the request's own deadline passed
└── Overloaded        a step's queue is full; try again (field ``retry_after_s``)
    ├── StepUnavailable   a step was removed, is not deployed, or changes; the image is not at fault
    └── Unreachable       the replicas with the call died
"""

from __future__ import annotations

from classifiers.errors import InputError, VisionError

__all__ = ["DeadlineExceeded", "Malformed", "Overloaded", "StepFailed", "StepUnavailable", "Unreachable"]


class Malformed(InputError):
    """A request, or what came with an image (metadata, an id, an address), cannot be understood or stored."""


class StepFailed(VisionError):
    """A step with ``on_error: fail`` failed or timed out (field ``step``)."""


class DeadlineExceeded(VisionError):
    """The request's own deadline passed before every step had answered (field ``timeout_ms``)."""


class Overloaded(VisionError):
    """A step's queue is full; the same request may go through later (field ``retry_after_s``)."""


class StepUnavailable(Overloaded):
    """A step cannot answer, whatever the image: its deployment was removed or failed, or the pipeline is being
    changed (field ``step``)."""


class Unreachable(Overloaded):
    """The replicas with the call died or were lost; the image may be the cause (field ``step``)."""
