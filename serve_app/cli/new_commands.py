"""``visiongraph new classifier``: creates the files of a new classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from serve_app.cli.arguments import stdout

__all__ = ["new"]

new = typer.Typer(name="new", help="Create files to start from.", no_args_is_help=True)


@new.callback()
def _group() -> None:
    """Keeps ``classifier`` a subcommand."""


@new.command()
def classifier(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the module and its folder: wheel_count.")],
) -> None:
    """Create a folder with a class, its test, a pipeline file, a photo and a README, all of which work unchanged."""
    from serve_app.local.new_classifier import write_classifier

    folder = write_classifier(name, Path.cwd())
    stdout.print(f"created {escape(folder.name)}/; try it:")
    stdout.print(f"  cd {escape(folder.name)} && pytest && visiongraph run pipeline.yaml photo.jpg", highlight=False)
