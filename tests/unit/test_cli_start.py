"""What a command imports when it starts: its own, and neither the others' nor pandas."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.utils import make_default_short_help

from jobtrail.cli import COMMANDS, command, main

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


#: What a part of the base must not import: it would be slow, or is not there.
_SERVER = (
    "apsw", "cryptography", "faust", "filelock", "jwt", "numpy", "orjson", "prometheus_client",
    "pydantic", "pydantic_settings", "rich", "uvloop",
)  # fmt: skip


@pytest.mark.parametrize(
    ("code", "others"),
    [
        ("import jobtrail.client", ("aiohttp", "aiokafka", "click", "psutil")),
        ("from jobtrail import JobProducer, SyncJobProducer", ("aiohttp", "click")),
        ("import jobtrail.integrations.outbox", ("aiohttp", "click")),
        ("import jobtrail.cli", ("aiohttp", "aiokafka", "asyncio", "msgspec", "psutil")),
        ("from jobtrail.cli import ask, explain", ("aiohttp", "aiokafka")),
        ("from jobtrail.cli import emit", ("aiohttp",)),
    ],
)
def test_the_base_imports_nothing_that_it_has_no_use_for(
    code: str, others: tuple[str, ...]
) -> None:
    run(
        f"import sys; {code}; assert not {{*{(*_SERVER, *others)}}} & {{*sys.modules}}, sys.modules"
    )


def test_the_list_of_commands_is_printed_without_importing_them() -> None:
    ours = "[m for m in sys.modules if m.startswith('jobtrail.cli.')]"
    run(
        "import io, sys; from jobtrail.cli import main; sys.stdout = io.StringIO()\n"
        "try: main(['--help'])\n"
        f"except SystemExit: assert not {ours}, {ours}\n"
        "assert 'Count jobs by type and state.' in sys.stdout.getvalue()"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_of_each_what_its_help_begins_with(name: str) -> None:
    assert COMMANDS[name].what == make_default_short_help(command(name).help or "", 1_000)


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_every_command_is_where_it_is_said_to_be(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name


def test_no_other_command_is_there() -> None:
    assert main.get_command(click.Context(main), "none") is None
