"""Where clients' images are kept: they are read through their jobs alone, whatever buckets and folders are listed."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from serve_app.refusals import Forbidden
from serve_app.uris import path_of_file_uri, scheme_of, split_bucket_uri

__all__ = ["KeptPlaces"]

# as `serve_app.images.uploads` and `serve_app.results.store` lay them out
_UPLOAD = r"(open|t-[^/]+)/[0-9a-f]{2}/[0-9a-f]{32,64}"
_PICTURE = r"pictures/[0-9a-f]{2}/[^/]+\.jpg"


class KeptPlaces:
    """The places of uploads and of annotated pictures.

    Args:
        uploads: URI of the uploads, as for :func:`serve_app.results.objects_from_uri`.
        results: URI of the results.
    """

    def __init__(self, uploads: str, results: str) -> None:
        places = ((uploads, _UPLOAD), (results, _PICTURE))
        self._patterns = [re.compile(re.escape(_root(uri)) + pattern) for uri, pattern in places]

    def check(self, uri: str) -> None:
        """Check an address in a bucket or a folder.

        Raises:
            Forbidden: it is that of a client's image.
        """
        if scheme_of(uri) == "file":
            path = path_of_file_uri(uri)
            place = "" if path is None else str(path.resolve())
        else:
            bucket, key = split_bucket_uri(uri)
            place = f"{scheme_of(uri)}://{bucket}/{key}"
        if any(pattern.fullmatch(place) for pattern in self._patterns):
            raise Forbidden("this is an image that a client has handed over; only the jobs of its tenant may name it")


def _root(uri: str) -> str:
    """The beginning of the addresses below a place."""
    parts = urlsplit(uri)
    if parts.scheme in ("s3", "gs"):
        folder = parts.path.strip("/")
        return f"{parts.scheme}://{parts.netloc}/{f'{folder}/' if folder else ''}"
    return f"{Path(unquote(parts.path) if parts.scheme == 'file' else uri).resolve()}/"
