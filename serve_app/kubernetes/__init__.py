"""Kubernetes manifests for the KubeRay operator."""

from serve_app.kubernetes.manifests import render_kubernetes
from serve_app.kubernetes.target import Target, Upgrade

__all__ = ["Target", "Upgrade", "render_kubernetes"]
