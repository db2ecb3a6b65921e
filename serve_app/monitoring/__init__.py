"""Files for Prometheus and Grafana: what is scraped, the alert rules, the dashboard."""

from serve_app.monitoring.monitoring_files import monitoring_files

__all__ = ["monitoring_files"]
