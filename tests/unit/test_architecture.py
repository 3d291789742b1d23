"""The source's own rules: who may import whom, how long things get, what has no place in it.

Everything here is read from the syntax trees of the files; nothing is imported.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("jobtrail", "projections", "services", "tests", "benchmarks")
OURS = ("jobtrail", "projections", "services")

# Which of our packages each may import, whole or by module.
MAY_IMPORT = {
    "jobtrail": ("jobtrail",),
    "projections": ("jobtrail", "projections"),
    "services": (
        "jobtrail",
        "services",
        "projections.ports.meter",
        "projections.ports.read",
        "projections.sqlite.read.reader",
    ),
}

# All that the pure core may import: no I/O, no clock, no random number.
PURE_MAY_IMPORT = {
    "__future__",
    "collections.abc",
    "contextlib",
    "copy",
    "datetime",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "jobtrail.core",
    "json",
    "math",
    "msgspec",
    "numpy",
    "operator",
    "re",
    "struct",
    "types",
    "typing",
    "urllib.parse",
    "xxhash",
}
# What prints, and the two modules that may: they show what others wrote so that no terminal obeys.
PRINTS = {"print", "echo", "secho", "echo_via_pager", "get_binary_stream", "get_text_stream"}
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}
PRINTERS = ("jobtrail/terminal/text.py", "jobtrail/terminal/tables.py")
#: Of rich, anybody may draw progress: its words are ours.
PROGRESS = "rich.progress"

CLOCKS = {"now", "today", "utcnow"}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Put together here, so that this file does not hold them.
MARKERS = ["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK", "W" + "IP"]


def files_in(*folders: str) -> list[str]:
    """Return the Python files below some folders, as paths from the root."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


EVERY = files_in(*FOLDERS)
TESTS = files_in("tests")


@cache
def source(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def tree(file: str) -> ast.Module:
    return ast.parse(source(file), filename=file)


def imports(module: ast.Module, file: str) -> Iterator[str]:
    """Yield what a file imports, with the imported name: `a.b` for `from a import b`."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            here = list(Path(file).parts[: -node.level]) if node.level else []
            base = ".".join([*here, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, allowed: tuple[str, ...] | set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in allowed)


def strangers(module: ast.Module, file: str) -> list[str]:
    """Return which modules of ours a file imports that its folder may not."""
    allowed = MAY_IMPORT[Path(file).parts[0]]
    ours = [name for name in imports(module, file) if within(name, OURS)]
    return [name for name in ours if not within(name, allowed)]


def impurities(module: ast.Module, file: str) -> list[str]:
    """Return what a module of the pure core imports or asks for that it may not."""
    found = [name for name in imports(module, file) if not within(name, PURE_MAY_IMPORT)]
    called = [node.func for node in ast.walk(module) if isinstance(node, ast.Call)]
    found += [f.attr for f in called if isinstance(f, ast.Attribute) and f.attr in CLOCKS]
    return found + [f.id for f in called if isinstance(f, ast.Name) and f.id in ("open", "input")]


def called(module: ast.Module) -> list[str]:
    """Return the names that are called."""
    functions = [node.func for node in ast.walk(module) if isinstance(node, ast.Call)]
    return [ast.unparse(function).rsplit(".", 1)[-1] for function in functions]


def prints(module: ast.Module, file: str) -> list[str]:
    """Return what prints past the door, and what of rich is not progress."""
    found = [f for f in called(module) if f in PRINTS]
    for node in ast.walk(module):
        # Whether somebody looks is asked by `isatty`; all else writes, or lets another write.
        if isinstance(node, ast.Attribute) and node.attr in {"write", "writelines", "buffer"}:
            target = node.value
            if isinstance(target, ast.Attribute) and target.attr in STREAMS:
                found.append(f"{target.attr}.{node.attr}")
    found += [
        n for n in imports(module, file) if within(n, ("rich",)) and not within(n, (PROGRESS,))
    ]
    return found


def banned_in_tests(module: ast.Module, file: str) -> list[str]:
    """Return the mocks and sleeps that a test file uses."""
    found = [
        name
        for name in imports(module, file)
        if within(name, ("unittest.mock", "mock", "pytest_mock", "time.sleep"))
    ]
    for node in ast.walk(module):
        if isinstance(node, ast.arg) and node.arg in ("monkeypatch", "mocker"):
            found.append(node.arg)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep":
            found.append("time.sleep")
        elif isinstance(node, ast.Attribute) and node.attr == "MonkeyPatch":
            found.append("MonkeyPatch")
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "asyncio.sleep":
            # A number of seconds has a name that says why, or `tests.waiting` is used.
            found += [ast.unparse(arg) for arg in node.args if _is_seconds(arg)]
    return found


def _is_seconds(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def long_functions(module: ast.Module) -> list[str]:
    """Return the functions of more than `MAX_FUNCTION_LINES` lines."""
    return [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


def markers(text: str) -> list[str]:
    """Return the lines whose comments or strings hold a mark of work left over."""
    pattern = re.compile(rf"\b(?:{'|'.join(MARKERS)})\b")
    kinds = (tokenize.COMMENT, tokenize.STRING)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [f"line {t.start[0]}" for t in tokens if t.type in kinds and pattern.search(t.string)]


# --- the rules


@pytest.mark.parametrize("file", files_in(*OURS))
def test_imports_go_one_way(file: str) -> None:
    assert strangers(tree(file), file) == []


@pytest.mark.parametrize("file", files_in("jobtrail/core"))
def test_the_pure_core_has_no_io_no_clock_and_no_random_number(file: str) -> None:
    assert impurities(tree(file), file) == []


@pytest.mark.parametrize("file", files_in(*OURS))
def test_everybody_reads_the_log_by_the_same_consumer(file: str) -> None:
    """Committed records only, and never moved by itself: `jobtrail.log.consumers.group_reader`."""
    made = [f for f in called(tree(file)) if f in ("AIOKafkaConsumer", "Consumer")]
    assert made == (["Consumer"] if file == "jobtrail/log/consumers.py" else [])


@pytest.mark.parametrize("file", files_in(*OURS))
def test_nobody_has_a_topic_made_by_asking_about_it(file: str) -> None:
    """As aiokafka's own clients do; those of `jobtrail.internals` do not."""
    assert {"AIOKafkaProducer", "AIOKafkaAdminClient"} & set(called(tree(file))) == set()


@pytest.mark.parametrize("file", files_in(*OURS))
def test_everything_is_printed_through_one_door(file: str) -> None:
    """The modules of `jobtrail.terminal`: they make the text of others safe to show."""
    assert prints(tree(file), file) == [] or file in PRINTERS


@pytest.mark.parametrize("file", EVERY)
def test_every_file_says_why_it_exists(file: str) -> None:
    assert ast.get_docstring(tree(file))


@pytest.mark.parametrize("file", EVERY)
def test_files_and_functions_stay_short(file: str) -> None:
    assert len(source(file).splitlines()) <= MAX_FILE_LINES
    assert long_functions(tree(file)) == []


@pytest.mark.parametrize("file", TESTS)
def test_tests_neither_mock_nor_sleep(file: str) -> None:
    assert banned_in_tests(tree(file), file) == []


@pytest.mark.parametrize("file", EVERY)
def test_no_work_is_left_over(file: str) -> None:
    assert markers(source(file)) == []


# --- the rules can be broken


def test_the_folders_are_found() -> None:
    assert "jobtrail/core/fold.py" in EVERY
    assert "tests/unit/test_architecture.py" in TESTS
    assert {Path(file).parts[0] for file in EVERY} >= set(OURS)


@pytest.mark.parametrize(
    ("file", "line", "found"),
    [
        ("jobtrail/x.py", "import services.api", ["services.api"]),
        ("jobtrail/x.py", "from projections import ports", ["projections.ports"]),
        ("jobtrail/x.py", "def f():\n    import projections", ["projections"]),
        ("projections/x.py", "from services.api import app", ["services.api.app"]),
        ("projections/sqlite/x.py", "from ..ports import write", []),
        ("services/x.py", "from projections.ports.read import Watermark", []),
        ("services/x.py", "from projections.sqlite.read import reader", []),
        (
            "services/x.py",
            "from projections.sqlite.write import writer",
            ["projections.sqlite.write.writer"],
        ),
        ("services/x.py", "from projections import *", ["projections.*"]),
        ("services/x.py", "import projections.storehouse", ["projections.storehouse"]),
        ("services/api/x.py", "import jobtrail.core.fold, services.broker, aiohttp", []),
    ],
)
def test_a_wrong_import_is_seen(file: str, line: str, found: list[str]) -> None:
    assert strangers(ast.parse(line), file) == found


@pytest.mark.parametrize(
    "line", ["import time", "import os", "from random import random", "datetime.now()", "open(x)"]
)
def test_an_impurity_is_seen(line: str) -> None:
    assert impurities(ast.parse(line), "jobtrail/core/fold.py")
    assert not impurities(ast.parse("import re\nfrom datetime import UTC"), "jobtrail/core/fold.py")


@pytest.mark.parametrize(
    "line",
    [
        "from unittest import mock",
        "from unittest.mock import Mock",
        "from time import sleep",
        "time.sleep(1)",
        "await asyncio.sleep(0.1)",
        "def test_x(monkeypatch): ...",
        "pytest.MonkeyPatch()",
    ],
)
def test_a_mock_or_a_sleep_is_seen(line: str) -> None:
    assert banned_in_tests(ast.parse(line), "tests/x.py")


def test_a_long_function_and_a_marker_are_seen() -> None:
    body = "    pass\n"
    assert not long_functions(ast.parse("def f():\n" + body * (MAX_FUNCTION_LINES - 1)))
    assert long_functions(ast.parse("def f():\n" + body * MAX_FUNCTION_LINES))
    assert [markers(f"x = 1\n# {marker}: later\n") for marker in MARKERS] == [["line 2"]] * 5
    assert markers('x = "a path of work"\n') == []
