"""Deployments, gateway and command line."""
