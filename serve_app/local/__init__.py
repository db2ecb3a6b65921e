"""Ray and Serve on this machine."""

from serve_app.local.cluster import FAST_ENVIRONMENT, LOGGING
from serve_app.local.photos import demo_photos, fetch_car_photos
from serve_app.local.serving import load_with_models, serving
from serve_app.local.wheels import FetchFailed

__all__ = [
    "FAST_ENVIRONMENT",
    "LOGGING",
    "FetchFailed",
    "demo_photos",
    "fetch_car_photos",
    "load_with_models",
    "serving",
]
