"""Makes the dashboard: `python compose/grafana/dashboard.py > compose/grafana/jobtrail.json`.

It is made by a program so that each panel is one line here, and a test can hold the file to it.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final, NamedTuple

#: Of Grafana's grid, which is 24 wide.
WIDTH: Final = 8
HEIGHT: Final = 7
SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


class Panel(NamedTuple):
    """A chart: its title, its unit in Grafana's words, and by legend what it shows."""

    title: str
    unit: str
    shown: dict[str, str]


ROWS: Final[dict[str, list[Panel]]] = {
    "Is it true and alive": [
        Panel("Lag of the projections", "s", {"{{instance}}": "jobtrail_projection_lag_seconds"}),
        Panel(
            "Records not applied yet",
            "short",
            {"{{instance}}": "jobtrail_projection_lag_records"},
        ),
        Panel(
            "Partitions that are answered for",
            "short",
            {
                "answered": "sum(min by (partition) (jobtrail_partition_answered))",
                "all": "count(min by (partition) (jobtrail_partition_answered))",
            },
        ),
        Panel(
            "Standing still with events to apply",
            "s",
            {"partition {{partition}}": "max by (partition) (jobtrail_projection_still_seconds)"},
        ),
        Panel(
            "Since a projector was heard of",
            "s",
            {"partition {{partition}}": "min by (partition) (jobtrail_projector_silent_seconds)"},
        ),
        Panel("Since Kafka answered", "s", {"{{instance}}": "jobtrail_tail_silent_seconds"}),
    ],
    "Events": [
        Panel(
            "Applied, by verdict",
            "ops",
            {"{{verdict}}": "max by (verdict) (rate(jobtrail_projected_records_total[1m]))"},
        ),
        Panel(
            "Not in the projections yet",
            "bytes",
            {"{{instance}}": "jobtrail_tail_buffer_bytes"},
        ),
        Panel(
            "Tail after the log",
            "short",
            {"{{instance}}": "jobtrail_tail_lag_records"},
        ),
    ],
    "Requests": [
        Panel(
            "Answered, by route",
            "reqps",
            {"{{route}}": "sum by (route) (rate(jobtrail_http_requests_total[1m]))"},
        ),
        Panel(
            "Errors, by status",
            "reqps",
            {
                "{{status}}": "sum by (status) "
                '(rate(jobtrail_http_requests_total{status=~"[45].."}[1m]))'
            },
        ),
        Panel(
            "Pages: time of 1 in 2, 1 in 100",
            "s",
            {
                share: f"histogram_quantile({share}, sum by (le) "
                '(rate(jobtrail_http_request_seconds_bucket{route="/jobs/search"}[5m])))'
                for share in ("0.5", "0.99")
            },
        ),
        Panel(
            "Waits: from an event to its answer",
            "s",
            {
                share: f"histogram_quantile({share}, sum by (le) "
                "(rate(jobtrail_wake_seconds_bucket[5m])))"
                for share in ("0.5", "0.99")
            },
        ),
        Panel(
            "Waits and listeners",
            "short",
            {"waits": "sum(jobtrail_waits_held)", "listeners": "sum(jobtrail_feeds)"},
        ),
        Panel(
            "Refused long reads, by bound",
            "ops",
            {"{{bound}}": "sum by (bound) (rate(jobtrail_long_reads_refused_total[5m]))"},
        ),
    ],
    "Processes": [
        Panel(
            "Processor",
            "percentunit",
            {"{{job}} {{instance}}": 'rate(process_cpu_seconds_total{job=~"jobtrail-.+"}[1m])'},
        ),
        Panel(
            "Memory",
            "bytes",
            {"{{job}} {{instance}}": 'process_resident_memory_bytes{job=~"jobtrail-.+"}'},
        ),
        Panel(
            "Started again",
            "short",
            {"{{process}}": "max by (process) (jobtrail_process_restarts_total)"},
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it (schema 39, Grafana 11 and newer)."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        place = {"x": 0, "y": top, "w": 24, "h": 1}
        panels.append({"type": "row", "title": title, "collapsed": False, "gridPos": place})
        top += 1
        for number, panel in enumerate(row):
            column, line = number % 3, number // 3
            place = {"x": column * WIDTH, "y": top + line * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_chart(panel, place))
        top += -(-len(row) // 3) * HEIGHT
    for number, made in enumerate(panels, 1):
        made["id"] = number
    return {
        "title": "jobtrail",
        "uid": "jobtrail",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "tags": ["jobtrail"],
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource"}
                     | {"query": "prometheus"}]
        },
        "panels": panels,
    }  # fmt: skip


def _chart(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expr}
            | {"legendFormat": legend}
            for number, (legend, expr) in enumerate(panel.shown.items())
        ],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(dashboard(), indent=1) + "\n")
