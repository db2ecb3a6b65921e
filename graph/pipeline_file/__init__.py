"""The pipeline file: its schema, reading it, and all checks; every error is reported at once."""

from graph.pipeline_file.classes import constructor_of
from graph.pipeline_file.loading import Checked, PipelineError, Source, check, load
from graph.pipeline_file.placement import hosts_of
from graph.pipeline_file.schema import PipelineConfig, StepConfig, json_schema
from graph.pipeline_file.serve_options import INGRESS, AutoscalingConfig, ServeConfig
from graph.pipeline_file.split import merge, structure, tunables
from graph.pipeline_file.step_checks import Draft
from graph.pipeline_file.yaml_reader import read_yaml

__all__ = [
    "INGRESS",
    "AutoscalingConfig",
    "Checked",
    "Draft",
    "PipelineConfig",
    "PipelineError",
    "ServeConfig",
    "Source",
    "StepConfig",
    "check",
    "constructor_of",
    "hosts_of",
    "json_schema",
    "load",
    "merge",
    "read_yaml",
    "structure",
    "tunables",
]
