"""Alert rules and the dashboard, held to the metrics that a running service has."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.api_service import Api

ROOT = Path(__file__).parents[2]
RULES = ROOT / "compose" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "compose" / "grafana" / "jobtrail.json"
#: What Prometheus itself adds to each series.
TARGET = {"job", "instance"}
#: What a histogram's buckets, and a rule's own series, are told apart by.
SPECIAL = {"le", "alertname"}
#: Words of PromQL in expressions.
WORDS = re.compile(r"\b(?:sum|min|max|count|by|rate|increase|delta|histogram_quantile)\b")
NAME = re.compile(r"\b(?:jobtrail|process|python)_[a-z_]+\b|\bup\b")
LABELS = re.compile(r"by \(([a-z_, ]+)\)|([a-z_]+)(?:=~|!=|=)\"")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[str]:
    for alert in alerts():
        yield alert["expr"]
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])


def labels_of(expression: str) -> set[str]:
    """Return the labels that an expression selects by, or groups by."""
    found = set()
    for grouped, selected in LABELS.findall(expression):
        found |= {label.strip() for label in grouped.split(",")} if grouped else {selected}
    return found


async def known(api: Api) -> dict[str, set[str]]:
    """Return the metrics of a service by their names, with the labels of each."""
    await api.send("GET", "/jobs/search", {})
    answer = await api.send("GET", "/metrics", {"Accept-Encoding": "identity"})
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(answer.body.decode()):
        for suffix in ("_total", "_bucket") if not family.samples else ():
            found[family.name + suffix] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.fixture
def promtool() -> str:
    beside = ROOT / ".venv" / "promtool"
    found = str(beside) if beside.exists() else shutil.which("promtool")
    if found is None:
        assert os.environ.get("CI") != "true", "tests/install.sh did not bring promtool"
        pytest.skip("promtool is not installed: sh tests/install.sh")
    return found


def run(promtool: str, *arguments: object, folder: Path) -> None:
    done = subprocess.run(
        [promtool, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_configuration(promtool: str) -> None:
    run(promtool, "check", "config", RULES.with_name("prometheus.yaml"), folder=ROOT)


def test_each_alert_fires_where_it_should(promtool: str, tmp_path: Path) -> None:
    tests = Path(__file__).with_name("alerts_test.yaml")
    for file in (RULES, tests):
        shutil.copy(file, tmp_path)
    run(promtool, "test", "rules", tests.name, folder=tmp_path)
    text = tests.read_text(encoding="utf-8")
    for alert in alerts():
        assert f'{{alertname="{alert["alert"]}"}}' in text, f"{alert['alert']} is never tried"


async def test_rules_and_charts_ask_for_metrics_that_there_are(api: Api) -> None:
    metrics = await known(api)
    for expression in expressions():
        names = NAME.findall(WORDS.sub("", expression))
        assert names, expression
        for name in names:
            assert name in metrics, f"{expression}: there is no {name}"
        their = set().union(*(metrics[name] for name in names)) | TARGET | SPECIAL
        # A count that is still 0 for each of its labels has no sample to tell them by.
        if all(metrics[name] or name == "up" for name in names):
            assert labels_of(expression) <= their, expression


def test_a_metric_that_is_not_there_would_be_seen() -> None:
    expression = 'sum by (route) (rate(jobtrail_nothing_total{status=~"5.."}[5m]))'
    assert NAME.findall(expression) == ["jobtrail_nothing_total"]
    assert labels_of(expression) == {"route", "status"}


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    guide = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == alert["annotations"].keys()
        assert f"`{alert['alert']}`" in guide, f"docs/monitoring.md does not name {alert['alert']}"


def test_the_dashboard_is_the_one_that_is_made() -> None:
    made = runpy.run_path(str(DASHBOARD.with_name("dashboard.py")))["dashboard"]()
    assert json.loads(DASHBOARD.read_text(encoding="utf-8")) == made
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles)) > 10


def test_charts_do_not_lie_over_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        mine = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not taken & mine, panel["title"]
        assert max(x for x, _y in mine) < 24
        taken |= mine
