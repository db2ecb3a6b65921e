"""Checks of a cluster, or of this machine, before and after a deployment."""

from serve_app.doctor.examination import examine_cluster, examine_machine
from serve_app.doctor.findings import Finding

__all__ = ["Finding", "examine_cluster", "examine_machine"]
