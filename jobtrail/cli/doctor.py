"""`jobtrail doctor`: checks what a local service needs, and explains how to repair it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

import click
import msgspec

from jobtrail.cli.common import chosen_data_dir, log_options
from jobtrail.local.checks import examine
from jobtrail.local.checks.finding import Finding
from jobtrail.settings import load
from jobtrail.terminal.tables import Screen
from jobtrail.terminal.text import out_json

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@log_options
def doctor(as_json: bool, data_dir: Path | None, bootstrap_servers: str | None) -> None:
    """Check Java, files, processes, Kafka and store, and explain how to repair what is wrong.

    The exit status is 1 where something is wrong. Nothing is changed.
    """
    settings = load(data_dir=chosen_data_dir(data_dir), bootstrap_servers=bootstrap_servers)
    # A refused client's log lines are among the findings.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    findings = asyncio.run(examine(settings))
    if as_json:
        out_json(msgspec.json.encode(findings))
    else:
        _show(findings)
    if any(finding.level == "problem" for finding in findings):
        raise SystemExit(1)


def _show(findings: list[Finding]) -> None:
    screen = Screen(wrap=True)
    for finding in findings:
        screen.say(finding.level.ljust(8), _STYLES[finding.level], end="")
        screen.say(f" {finding.check}: {finding.found}")
        if finding.mend:
            screen.say(f"         mend: {finding.mend}")
