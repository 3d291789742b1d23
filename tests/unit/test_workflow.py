"""The public CI runs the tests on each Python that pyproject.toml names, and may only read."""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

import yaml

from tests.unit.test_architecture import ROOT

FILE: Final = ROOT / ".github" / "workflows" / "tests.yml"
TEXT: Final = FILE.read_text(encoding="utf-8")
WORKFLOW: Final[dict[Any, Any]] = yaml.safe_load(TEXT)
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_it_names_the_versions_of_the_project() -> None:
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in PROJECT["classifiers"]]
    assert WORKFLOW["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_it_runs_the_documented_command() -> None:
    runs = [step["run"] for step in WORKFLOW["jobs"]["test"]["steps"] if "run" in step]
    assert runs[-1] == "make test PYTHON=python${{ matrix.python }}"


def test_it_may_only_read_and_its_actions_are_pinned() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert "permissions" not in WORKFLOW["jobs"]["test"]
    assert "secrets." not in TEXT
    used = [step["uses"] for step in WORKFLOW["jobs"]["test"]["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", action) for action in used)
