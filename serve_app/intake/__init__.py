"""From a queue to results: what workers do, without Ray."""

from serve_app.intake.consumer import Consumer, Pace
from serve_app.intake.housekeeping import Housekeeping
from serve_app.intake.job_runner import JobRunner
from serve_app.intake.retrying import Retrier

__all__ = ["Consumer", "Housekeeping", "JobRunner", "Pace", "Retrier"]
