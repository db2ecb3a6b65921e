"""The command line: ``visiongraph COMMAND``."""

from serve_app.cli.main import main

__all__ = ["main"]
