"""The dashboard, as Grafana's JSON."""

from __future__ import annotations

from typing import Any

from serve_app.monitoring.panels import ROWS, Panel

__all__ = ["UID", "dashboard"]

UID = "visiongraph"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS = 24
_WIDTH = 6
_HEIGHT = 7
_SCHEMA = 38


def dashboard() -> dict[str, Any]:
    """One page, for any number of applications."""
    panels: list[dict[str, Any]] = []
    top = 0
    for question, row in ROWS.items():
        place = {"x": 0, "y": top, "w": _COLUMNS, "h": 1}
        panels.append({"type": "row", "title": question, "collapsed": False, "gridPos": place, "panels": []})
        top += 1
        for index, panel in enumerate(row):
            line, column = divmod(index, _COLUMNS // _WIDTH)
            panels.append(_panel(panel, x=column * _WIDTH, y=top + line * _HEIGHT))
        top += _HEIGHT * (1 + (len(row) - 1) // (_COLUMNS // _WIDTH))
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "uid": UID,
        "title": "visiongraph",
        "tags": ["visiongraph"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_datasource(), _application()]},
        "panels": panels,
    }


def _panel(panel: Panel, x: int, y: int) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _application() -> dict[str, Any]:
    query = "label_values(visiongraph_images_total, application)"
    return {
        "name": "application",
        "label": "Application",
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": "applications"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
