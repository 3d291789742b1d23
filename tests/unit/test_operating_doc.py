"""docs/operating.md: its units run commands that exist, and its alerts name figures that do."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest

from jobtrail.cli import command
from jobtrail.settings import ENV_PREFIX, names
from projections.projector.health import Health
from projections.projector.vitals import Vitals

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
UNITS = re.findall(r"^```ini\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
#: Of the API, which has a metric of the projectors' silence.
OF_THE_API = {"jobtrail_projector_silent_seconds"}


def unit(text: str) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(text)
    return parsed


@pytest.mark.parametrize(("text", "kind"), [*zip(UNITS, ["projector", "api"], strict=True)])
def test_a_unit_runs_a_command_and_gives_it_time_to_end(text: str, kind: str) -> None:
    service = unit(text)["Service"]
    program, name, *options = shlex.split(service["ExecStart"].replace("%i", "1"))
    assert (Path(program).name, name) == ("jobtrail", kind)
    context = command(kind).make_context(name, options)
    within = 20 if kind == "projector" else context.params["drain"] + 10
    assert int(service["TimeoutStopSec"]) > within
    assert service["Restart"] == "always"
    variable = service["Environment"].partition("=")[0]
    assert variable.removeprefix(ENV_PREFIX).lower() in names()


def test_every_command_in_it_is_one() -> None:
    lines = re.findall(r"^jobtrail ((?:projector|api) .*)$", TEXT, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        name, *options = shlex.split(line)
        assert command(name).make_context(name, options).params["bootstrap_servers"]


def test_figures_to_alert_on_exist() -> None:
    vitals = Vitals(stalled_after=60)
    vitals.assigned = lambda: {0}
    vitals.progress.next_offsets = {0: 1}
    given = Health(vitals, stalled_after=60).metrics().decode()
    named = set(re.findall(r"\bjobtrail_projector_\w+", TEXT)) - OF_THE_API
    assert len(named) > 5
    assert [name for name in named if not re.search(rf"^{name}[ {{]", given, re.MULTILINE)] == []
