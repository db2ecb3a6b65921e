"""Running steps: batches, results, and the pipeline in this process."""

from graph.runtime.annotation import annotate
from graph.runtime.in_process import LocalBackend
from graph.runtime.pipeline import VisionPipeline
from graph.runtime.runner import Prepared, StepRunner, load_classifier

__all__ = ["LocalBackend", "Prepared", "StepRunner", "VisionPipeline", "annotate", "load_classifier"]
