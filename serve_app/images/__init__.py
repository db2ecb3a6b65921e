"""Fetches the images that clients and messages name."""

from serve_app.images.fetching import Fetcher
from serve_app.images.frames import read_frame
from serve_app.images.job_sources import Sources, is_final
from serve_app.images.kept_images import KeptImages
from serve_app.images.kept_places import KeptPlaces
from serve_app.images.uploads import PresignedUpload, Uploads, upload_address

__all__ = [
    "Fetcher",
    "KeptImages",
    "KeptPlaces",
    "PresignedUpload",
    "Sources",
    "Uploads",
    "is_final",
    "read_frame",
    "upload_address",
]
