"""The console script: its commands, and how errors are printed."""

from __future__ import annotations

import io
import sys

import typer

from classifiers import SetupError, VisionError
from serve_app.cli.batch_command import batch
from serve_app.cli.doctor_command import doctor
from serve_app.cli.explain_command import explain
from serve_app.cli.inspect_commands import graph, models, schema, validate
from serve_app.cli.key_commands import keys
from serve_app.cli.metrics_command import metrics
from serve_app.cli.new_commands import new
from serve_app.cli.plan_command import plan
from serve_app.cli.queue_commands import dlq, queue, submit
from serve_app.cli.result_commands import compact, query
from serve_app.cli.retention_commands import results, retention
from serve_app.cli.run_command import run
from serve_app.cli.serve_commands import demo, render, serve

__all__ = ["app", "main"]

app = typer.Typer(
    name="visiongraph",
    help="Conditional vision pipelines: one YAML file lists the classifiers and the condition of each. "
    "The same file runs in this process ([b]run[/]), on Ray Serve on this machine ([b]serve[/]), and on a cluster "
    "([b]render[/], then serve deploy).",
    epilog="Start with: visiongraph validate configs/demo.yaml",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = (
    run,
    batch,
    validate,
    explain,
    graph,
    schema,
    models,
    plan,
    render,
    serve,
    demo,
    doctor,
    metrics,
    submit,
    query,
    compact,
)
for each in _COMMANDS:
    app.command()(each)
for group in (new, queue, dlq, results, retention, keys):
    app.add_typer(group)


def main() -> None:
    """Run the command line. Exit status: 0; 1 if an image failed; 2 for an error in the command, the pipeline file or
    the setup."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in every locale, and for any bytes in names of files
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except VisionError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2 if isinstance(error, SetupError) else 1)
