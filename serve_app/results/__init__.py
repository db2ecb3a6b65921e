"""The outcome of every job: one JSON object each, written once; Parquet of them; SQL over that.

Import what needs pyarrow from its own modules, ``compaction`` and ``query``: importing it takes a third of a second,
which a replica need not wait for when it starts.
"""

from serve_app.results.compactor import Compactor
from serve_app.results.object_stores import BadResultsUri, Objects, StoreUnavailable, objects_from_uri, uri_below
from serve_app.results.reuse import Reuse
from serve_app.results.store import JOB_PREFIX, JobMarker, JobStatus, Outcome, ResultStore, content_key

__all__ = [
    "JOB_PREFIX",
    "BadResultsUri",
    "Compactor",
    "JobMarker",
    "JobStatus",
    "Objects",
    "Outcome",
    "ResultStore",
    "Reuse",
    "StoreUnavailable",
    "content_key",
    "objects_from_uri",
    "uri_below",
]
