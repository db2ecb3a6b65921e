"""Ray and Serve on this machine."""

from serve_app.local.cluster import FAST_ENVIRONMENT, LOGGING
from serve_app.local.photos import demo_photos, fetch_car_photos
from serve_app.local.serving import serving

__all__ = ["FAST_ENVIRONMENT", "LOGGING", "demo_photos", "fetch_car_photos", "serving"]
