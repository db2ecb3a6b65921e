"""What became of every job: one JSON object each, written once; Parquet of them; SQL over that."""

from serve_app.results.compaction import Compacted, compact
from serve_app.results.objects import BadResultsUri, Objects, StoreUnavailable, objects_from_uri
from serve_app.results.query import query
from serve_app.results.reuse import Reuse
from serve_app.results.store import JOB_PREFIX, JobMarker, JobStatus, Outcome, ResultStore, content_key

__all__ = [
    "JOB_PREFIX",
    "BadResultsUri",
    "Compacted",
    "JobMarker",
    "JobStatus",
    "Objects",
    "Outcome",
    "ResultStore",
    "Reuse",
    "StoreUnavailable",
    "compact",
    "content_key",
    "objects_from_uri",
    "query",
]
