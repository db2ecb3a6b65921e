"""What can go wrong with one image on its way through the graph. Extends the tree of ``classifiers.errors``::

VisionError
├── InputError
│   └── Malformed     what came with the image (metadata, an id, an address) cannot be understood or stored
├── StepFailed        a step with ``on_error: fail`` failed (field ``step``)
├── DeadlineExceeded  the request's own deadline passed
└── Overloaded        a step has no room; try again (field ``retry_after_s``)
"""

from __future__ import annotations

from classifiers.errors import InputError, VisionError

__all__ = ["DeadlineExceeded", "Malformed", "Overloaded", "StepFailed"]


class Malformed(InputError):
    """A request, or what came with an image (metadata, an id, an address), cannot be understood or stored."""


class StepFailed(VisionError):
    """A step that the request cannot do without failed or timed out (field ``step``)."""


class DeadlineExceeded(VisionError):
    """The request's own deadline passed before every step had answered (field ``timeout_ms``)."""


class Overloaded(VisionError):
    """A step's queue is full; the same request may go through later (field ``retry_after_s``)."""
