"""What a command that takes a while shows: the phase it is in, and a line for each that it has been through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

__all__ = ["phases"]


@contextmanager
def phases(console: Console) -> Iterator[Callable[[str], None]]:
    """Gives a function to call with the name of each phase when it begins.

    On a terminal the current phase has a spinner. One that has ended leaves a line with its name and time; one that an
    exception broke off leaves none.
    """
    name, began = "", 0.0

    def end() -> None:
        if name:
            console.print(f"[green]✓[/] {escape(name)} [dim]{time.monotonic() - began:.1f} s[/]", highlight=False)

    with console.status("") as status:

        def begin(next_name: str) -> None:
            nonlocal name, began
            end()
            name, began = next_name, time.monotonic()
            status.update(f"{escape(name)} ...")

        yield begin
        end()
