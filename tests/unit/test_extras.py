"""Extras: each brings what its part is said to need, and the sentence where it is missing."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from jobtrail.extras import BRINGS, ExtraMissing, missing, require_extra

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
DECLARED: dict[str, list[str]] = PROJECT["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    found = {re.match(r"[\w.-]+", requirement) for requirement in requirements}
    return {match[0].lower() for match in found if match}


@pytest.mark.parametrize("extra", BRINGS)
def test_an_extra_brings_what_its_part_needs(extra: str) -> None:
    makers = packages_distributions()
    needed = {makers[name][0].lower().replace("_", "-") for name in BRINGS[extra]}
    assert needed <= names(DECLARED[extra])
    assert missing(extra) == []
    require_extra(extra, "This")


def test_every_extra_but_that_of_a_library_is_known() -> None:
    # Who has no Celery imports nothing for it.
    assert set(DECLARED) - set(BRINGS) == {"celery"}


@pytest.mark.parametrize(
    ("blocked", "named"),
    [
        (["apsw"], "apsw"),
        (["apsw", "faust", "jwt"], "apsw, faust, jwt"),
        (["apsw", "faust", "jwt", "rich"], "apsw, faust and 2 others"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(blocked: list[str], named: str) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from jobtrail.cli import main; main(['verify'])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == (
        f"error: `jobtrail verify` needs packages that are not installed ({named}): "
        "pip install 'jobtrail[server]' brings them.\n"
    )


def test_the_error_is_one_of_wrong_usage() -> None:
    assert issubclass(ExtraMissing, Exception)
    assert ExtraMissing("x").retriable is False
