"""Which Java the broker takes: versions read, places tried, stripped and old ones passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobtrail.core.errors import BrokerError
from services.broker.java import (
    NEEDED_MODULES,
    bundled,
    candidates,
    find_java,
    inspect,
    parse_major,
    parse_release,
)

WHOLE = " ".join(sorted({"java.base", *NEEDED_MODULES}))


def home(at: Path, version: str | None, modules: str | None = WHOLE) -> Path:
    """Lay out a Java home whose `java` can't be run; return it."""
    (at / "bin").mkdir(parents=True)
    (at / "bin" / "java").touch()
    lines = [f'JAVA_VERSION="{version}"'] if version else []
    lines += [f'MODULES="{modules}"'] if modules else []
    if lines:
        (at / "release").write_text("\n".join(['IMPLEMENTOR="x"', *lines]) + "\n")
    return at


def speaking(at: Path, line: str, status: int = 0) -> Path:
    """Lay out a Java home without a release file, whose `java` says `line`; return it."""
    (at / "bin").mkdir(parents=True)
    program = at / "bin" / "java"
    program.write_text(f"#!/bin/sh\necho '{line}' >&2\nexit {status}\n")
    program.chmod(0o755)
    return at


@pytest.mark.parametrize(
    ("text", "major"),
    [
        ("17.0.15", 17),
        ("25", 25),
        ("25-ea", 25),
        ("21.0.8+9-LTS", 21),
        ("1.8.0_452", 8),
        ("11", 11),
        ("", None),
        ("unknown", None),
    ],
)
def test_a_version_has_a_major_number(text: str, major: int | None) -> None:
    assert parse_major(text) == major


def test_a_release_file_is_read_with_and_without_quotes() -> None:
    assert parse_release('JAVA_VERSION="17.0.15"\nMODULES="a b"\n') == (17, frozenset("ab"))
    assert parse_release("OS_NAME=Linux\nJAVA_VERSION=21.0.1\n") == (21, frozenset())
    assert parse_release("nothing of use") == (None, frozenset())


@pytest.mark.parametrize(("version", "fit"), [("11.0.2", False), ("16", False), ("17", True)])
def test_a_java_is_new_enough_or_passed_over(tmp_path: Path, version: str, fit: bool) -> None:
    java = inspect(home(tmp_path / "j", version) / "bin" / "java")
    assert (java is not None) == fit


@pytest.mark.parametrize("missing", sorted(NEEDED_MODULES))
def test_a_stripped_java_is_passed_over(tmp_path: Path, missing: str) -> None:
    rest = " ".join(NEEDED_MODULES - {missing})
    assert inspect(home(tmp_path / "j", "21", rest) / "bin" / "java") is None


def test_a_java_that_does_not_list_its_modules_counts_as_whole(tmp_path: Path) -> None:
    assert inspect(home(tmp_path / "j", "21", None) / "bin" / "java") is not None


def test_a_java_without_a_release_file_is_asked(tmp_path: Path) -> None:
    new = speaking(tmp_path / "new", 'openjdk version "21.0.3" 2024-04-16')
    old = speaking(tmp_path / "old", 'java version "1.8.0_452"')
    stub = speaking(tmp_path / "stub", "Unable to locate a Java Runtime.", status=1)
    java = inspect(new / "bin" / "java")
    assert java is not None
    assert java.major == 21
    assert inspect(old / "bin" / "java") is None
    assert inspect(stub / "bin" / "java") is None
    assert inspect(tmp_path / "nowhere" / "bin" / "java") is None


def test_a_java_that_cannot_be_looked_at_is_passed_over(tmp_path: Path) -> None:
    """As in a folder that belongs to another user; here it is a link that leads to itself."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert inspect(loop / "bin" / "java") is None


def test_a_link_leads_to_the_release_file_of_the_java_behind_it(tmp_path: Path) -> None:
    real = home(tmp_path / "real", "17.0.1") / "bin" / "java"
    (tmp_path / "java").symlink_to(real)
    java = inspect(tmp_path / "java")
    assert java is not None
    assert java.path == real.resolve()


def test_java_home_comes_before_path_and_path_before_the_common_places(tmp_path: Path) -> None:
    for name in ("a", "b", "common/jdk-17", "common/jdk-21"):
        home(tmp_path / name, "17")
    environ = {"JAVA_HOME": str(tmp_path / "a"), "PATH": f"{tmp_path / 'b' / 'bin'}::/nowhere"}
    tried = list(candidates(environ, [f"{tmp_path}/common/jdk-*"]))
    assert tried == [
        tmp_path / "a/bin/java",
        tmp_path / "b/bin/java",
        Path("/nowhere/java"),
        tmp_path / "common/jdk-21/bin/java",
        tmp_path / "common/jdk-17/bin/java",
    ]


def test_the_first_fit_java_is_taken(tmp_path: Path) -> None:
    old = home(tmp_path / "old", "11")
    new = home(tmp_path / "new", "21")
    environ = {"JAVA_HOME": str(old), "PATH": str(new / "bin")}
    assert find_java(environ, []).path == (new / "bin" / "java").resolve()
    assert find_java({"PATH": ""}, [f"{tmp_path}/*"]).path == (new / "bin" / "java").resolve()


def test_without_a_java_on_the_machine_that_of_the_package_is_taken(tmp_path: Path) -> None:
    program = bundled()
    if program is None:
        with pytest.raises(BrokerError, match="No Java was found"):
            find_java({"PATH": str(tmp_path)}, [])
    else:
        found = find_java({"PATH": str(tmp_path)}, [])
        assert found.path == program.resolve()
        assert found.major >= 21
