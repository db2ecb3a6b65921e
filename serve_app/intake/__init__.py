"""From a queue to results: what workers do, without Ray."""

from serve_app.intake.consumer import Consumer, Pace
from serve_app.intake.patience import Patience
from serve_app.intake.work import JobRunner

__all__ = ["Consumer", "JobRunner", "Pace", "Patience"]
