"""What became of every job: one JSON object each, written once; Parquet of them; SQL over that.

What needs pyarrow is imported from its own modules, ``compaction`` and ``query``: it costs every start of a replica a
third of a second.
"""

from serve_app.results.compactor import Compactor
from serve_app.results.object_stores import BadResultsUri, Objects, StoreUnavailable, objects_from_uri
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
]
