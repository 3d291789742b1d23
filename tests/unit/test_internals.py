"""What is used of libraries beyond their documented interfaces: still there, and used in one place.

An upgrade may move or rename any of it without notice. Each name is listed with its reason in one
module for its library; here the lists are compared with what is installed, and with our source.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType

import pytest

from jobtrail.internals import (
    aiokafka_admin_internals,
    aiokafka_internals,
    celery_internals,
)
from jobtrail.internals.internal import Internal
from projections.internals import faust_internals
from services.api.internals import aiohttp_internals
from tests.unit.test_architecture import ROOT, files_in, imports, tree, within

LISTS = (
    aiokafka_internals,
    aiokafka_admin_internals,
    celery_internals,
    faust_internals,
    aiohttp_internals,
)
LISTED = [(of.LIBRARY, internal) for of in LISTS for internal in of.INTERNALS]
#: The modules that hold the lists, as files: the only ones that may use what is in them.
DOORS = {str(of.__name__).replace(".", "/") + ".py" for of in LISTS}
OUTSIDE = [file for file in files_in("jobtrail", "projections", "services") if file not in DOORS]

#: What may be imported of each library anywhere: its documented modules.
PUBLIC = {
    "aiohttp": ("aiohttp", "aiohttp.abc", "aiohttp.hdrs", "aiohttp.web"),
    "aiokafka": (
        "aiokafka",
        "aiokafka.abc",
        "aiokafka.admin",
        "aiokafka.errors",
        "aiokafka.helpers",
        # Listed, and imported where it is used: the admin client is slow to import.
        "aiokafka.admin.config_resource",
    ),
    "apsw": ("apsw",),
    "celery": ("celery", "celery.signals", "celery.states"),
    "click": ("click",),
    "faust": ("faust", "faust.auth"),
    "mode": (),
    "msgspec": ("msgspec", "msgspec.json", "msgspec.structs"),
    "prometheus_client": (
        "prometheus_client",
        "prometheus_client.core",
        "prometheus_client.registry",
    ),
    "psutil": ("psutil",),
    "pydantic": ("pydantic",),
    "pydantic_core": ("pydantic_core",),
    "pydantic_settings": ("pydantic_settings",),
    "uvloop": ("uvloop",),
}
#: What a class of ours may derive from that is a library's: theirs, or what a list's module makes.
BASES = (*PUBLIC, *(of.__name__ for of in LISTS))
#: Underscored names that are documented: of named tuples, and the end of a process.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_make", "_replace"}
#: The private names that are listed.
PRIVATE = {
    name
    for _, internal in LISTED
    if (name := re.split(r"[.:]", internal.where)[-1]).startswith("_")
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_set_in(cls: type, name: str) -> bool:
    """Tell whether a class, or one it derives from, sets an attribute of its instances."""
    setting = re.compile(rf"\bself\.{name}\s*(:[^=\n]+)?=[^=]")
    return any(setting.search(inspect.getsource(base)) for base in cls.__mro__[:-1])


def amiss(internal: Internal) -> str | None:
    """Return what is wrong with a name as it is installed, or None."""
    module, _, path = internal.where.partition(":")
    found: object
    try:
        found = import_module(module)
    except ImportError as error:
        return f"its module is gone ({error})"
    for part in path.split("."):
        if hasattr(found, part):
            found = getattr(found, part)
        elif isinstance(found, type) and is_set_in(found, part):
            return None
        else:
            return f"{part} is gone"
    if internal.takes is not None and callable(found):
        takes = tuple(inspect.signature(found).parameters)
        if takes != internal.takes:
            return f"it takes {takes}, not {internal.takes}"
    return None


def told(library: str, internal: Internal) -> str | None:
    """Return what to say of a name that is not as it was, or None."""
    wrong = amiss(internal)
    if wrong is None:
        return None
    installed = metadata.version(library)
    return f"{library} {installed}: {internal.where}: {wrong}. Needed because: {internal.reason}."


def own_names(module: ast.Module) -> set[str]:
    """Return the names that a file defines or sets itself."""
    found: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}:
                found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def known_names(module: ast.Module, file: str) -> set[str]:
    """Return those, and the ones of the modules of ours that it imports: of base classes."""
    known = own_names(module)
    for name in imports(module, file):
        home = name.rpartition(".")[0].replace(".", "/") + ".py"
        if home in OUTSIDE:
            known |= own_names(tree(home))
    return known


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def of_libraries(module: ast.Module, file: str) -> Iterator[str]:
    """Yield what a file imports of libraries that is no documented part of them."""
    for name in imports(module, file):
        library = name.partition(".")[0]
        if library not in PUBLIC or name in PUBLIC[library]:
            continue
        home, _, last = name.rpartition(".")
        if home not in PUBLIC[library] or is_private(last) or is_module(name):
            yield name


def overridden(module: ast.Module, file: str) -> Iterator[str]:
    """Yield the listed names that classes define or set which derive from a library's."""
    foreign = {name.rpartition(".")[2] for name in imports(module, file) if within(name, BASES)}
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            if any(base.partition(".")[0] in foreign for base in bases):
                foreign.add(node.name)
                yield from own_names(ast.Module([*node.body], [])) & PRIVATE


def uses(module: ast.Module, file: str) -> list[str]:
    """Return the internals of libraries that a file uses."""
    found = [*of_libraries(module, file), *overridden(module, file)]
    own, known = own_names(module), known_names(module, file)
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            ours = node.attr in (known if of_self else known - PRIVATE)
            if not ours and node.attr not in DOCUMENTED:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value in PRIVATE - own:
            found.append(repr(node.value))
    return found


@cache
def found_in_a_new_process() -> list[str | None]:
    """Return what is told of each: in this process others may have put ours in their places."""
    code = (
        "import json; from tests.unit.test_internals import LISTED, told; "
        "print(json.dumps([told(*one) for one in LISTED]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: list[str | None] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "number", range(len(LISTED)), ids=[internal.where for _, internal in LISTED]
)
def test_an_internal_is_where_it_was(number: int) -> None:
    assert found_in_a_new_process()[number] is None


@pytest.mark.parametrize("file", OUTSIDE)
def test_internals_are_used_where_they_are_listed(file: str) -> None:
    assert uses(tree(file), file) == []


@pytest.mark.parametrize("of", LISTS, ids=lambda of: of.LIBRARY)
def test_what_a_list_is_for_is_in_it(of: ModuleType) -> None:
    """Each private name that its module uses, and each module of the library that it imports."""
    file = str(of.__name__).replace(".", "/") + ".py"
    listed = {internal.where for internal in of.INTERNALS}
    assert len(listed) == len(of.INTERNALS)
    private = {
        node.attr
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and is_private(node.attr)
    }
    assert private - own_names(tree(file)) <= PRIVATE
    for name in of_libraries(tree(file), file):
        assert any(name in where.replace(":", ".") for where in listed), name
    for internal in of.INTERNALS:
        assert internal.reason


def test_libraries_with_internals_in_use_are_capped() -> None:
    """A version that may move them is not installed before the lists were looked at."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for of in LISTS:
        assert re.search(rf'"{of.LIBRARY}(\[[a-z0-9,]+\])?>=[0-9.]+,<[0-9.]+"', project), of.LIBRARY


@pytest.mark.parametrize(
    ("where", "takes", "wrong"),
    [
        ("aiokafka.gone:X", None, "its module is gone"),
        ("aiokafka.client:AIOKafkaClient.gone", None, "gone is gone"),
        ("aiokafka:AIOKafkaConsumer._gone", None, "_gone is gone"),
        ("aiokafka.client:AIOKafkaClient.send", ("self", "all"), "not ('self', 'all')"),
    ],
)
def test_what_was_moved_or_renamed_is_said(
    where: str, takes: tuple[str, ...] | None, wrong: str
) -> None:
    said = told("aiokafka", Internal(where, "no reader may stop", takes))
    assert said is not None
    assert said.startswith(f"aiokafka {metadata.version('aiokafka')}: {where}: ")
    assert wrong in said
    assert "Needed because: no reader may stop." in said


@pytest.mark.parametrize(
    "line",
    [
        "from aiokafka.consumer import fetcher",
        "from aiokafka import client",
        "import aiohttp.http_parser",
        "from aiohttp.helpers import rfc822_formatted_time",
        "from faust.transport.drivers import aiokafka",
        "from msgspec import _core",
        "consumer._client.close()",
        "class A:\n    def f(self, other):\n        self._client = other._client",
        "getattr(client, '_fetcher')",
        "from aiohttp import web\nclass A(web.Server):\n    def _make_server(self): ...",
        "from aiohttp.web import Server\nclass A(Server):\n    def f(self):\n"
        "        self._connections = []",
        "class A:\n    def f(self):\n        return self._hidden",
    ],
)
def test_an_internal_elsewhere_is_seen(line: str) -> None:
    assert uses(ast.parse(line), "services/x.py")


def test_what_is_ours_or_documented_is_no_internal() -> None:
    ours = "from aiohttp import hdrs, web\nclass A:\n    def f(self):\n        self._client = web\n"
    assert uses(ast.parse(ours + "row._replace(a=1)\nos._exit(1)"), "services/x.py") == []
