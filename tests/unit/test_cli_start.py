"""What a command imports when it starts: its own, and neither the others' nor pandas."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from jobtrail.cli import main

_FOLD = """
import sys
from jobtrail.cli.common import prepare_to_read
prepare_to_read()
from jobtrail.replay import export, folding
import numpy as np
import polars
import pyarrow as pa
import pyarrow.compute
rows = pa.array(np.arange(3)).to_numpy()
polars.from_arrow(pa.array(["a"])).hash().to_numpy()
assert "pandas" not in sys.modules
import pandas
assert pa.table({"a": rows}).to_pandas().equals(pandas.DataFrame({"a": [0, 1, 2]}))
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_with_arrow_starts_without_pandas_and_leaves_it_to_whoever_wants_it() -> None:
    run(_FOLD)


def test_a_command_does_not_import_what_others_need() -> None:
    run("import sys; from jobtrail.cli import replay; assert 'aiohttp' not in sys.modules")


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_is_where_it_is_said_to_be(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name


def test_no_other_command_is_there() -> None:
    assert main.get_command(click.Context(main), "none") is None
