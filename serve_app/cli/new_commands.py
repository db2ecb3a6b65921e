"""``visiongraph new classifier``: files to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from serve_app.cli.arguments import stdout

__all__ = ["new"]

new = typer.Typer(name="new", help="Write files to begin with.", no_args_is_help=True)


@new.callback()
def _group() -> None:
    """Keeps ``classifier`` a command of its own."""


@new.command()
def classifier(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the module and of its folder: wheel_count.")],
) -> None:
    """Write a folder with a class, its test, a pipeline file, a photo and a README, which run as they are."""
    from serve_app.local.new_classifier import write_classifier

    folder = write_classifier(name, Path.cwd())
    stdout.print(f"{escape(folder.name)}/ is written; try it:")
    stdout.print(f"  cd {escape(folder.name)} && pytest && visiongraph run pipeline.yaml photo.jpg", highlight=False)
