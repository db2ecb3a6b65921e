"""Kubernetes manifests for the KubeRay operator."""

from serve_app.kubernetes.manifests import render_batch, render_kubernetes
from serve_app.kubernetes.ray_job import Batch
from serve_app.kubernetes.target import Target, Upgrade

__all__ = ["Batch", "Target", "Upgrade", "render_batch", "render_kubernetes"]
