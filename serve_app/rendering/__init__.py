"""Writes Serve config files."""

from serve_app.rendering.serve_file import BlockDumper, commented, render

__all__ = ["BlockDumper", "commented", "render"]
