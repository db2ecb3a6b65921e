"""Ray and Serve on this machine."""

from serve_app.local.cluster import FAST_ENVIRONMENT, LOGGING
from serve_app.local.serving import serving

__all__ = ["FAST_ENVIRONMENT", "LOGGING", "serving"]
