"""Fetches the images that clients and messages name."""

from serve_app.images.fetching import Fetcher
from serve_app.images.frames import read_frame
from serve_app.images.job_sources import Sources, is_final

__all__ = ["Fetcher", "Sources", "is_final", "read_frame"]
