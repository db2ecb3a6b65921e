"""What this project measures of itself, and how Prometheus gets it."""
