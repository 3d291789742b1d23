"""Mapping files: what is refused, and how the error names it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from jobtrail.core.errors import UsageError
from jobtrail.importing.mapping import ALL_FIELDS, FIELDS, Mapping, Part, read_mapping

TOP: Final = 'source = "//s"\n'
RULE: Final = '[[event]]\ntype = "active"\njob = "id"\ntime = "at"\n'
CREATED: Final = '[[event]]\ntype = "created"\njob = "id"\ntime = "at"\n'
OWNED: Final = CREATED + 'job_type = "t"\nowner = "o"\n'


def mapping(folder: Path, text: str) -> Mapping:
    file = folder / "map.toml"
    file.write_text(text)
    return read_mapping(file)


@pytest.mark.parametrize(
    ("text", "where", "expected", "found"),
    [
        (RULE, "map.toml, key `source`", "a text", "nothing"),
        ("source = 7\n" + RULE, "map.toml, key `source`", "a text", "7"),
        (TOP, "key `event`", "a list", "nothing"),
        (TOP + "event = []", "key `event`", "one [[event]] at least", "none"),
        (TOP + "event = [1]", "[[event]] 1, key `event`", "a table", "1"),
        (TOP + "sauce = 1\n" + RULE, "key `sauce`", "one of csv, event, source", "unknown"),
        (TOP + RULE + '[csv]\ndelimiter = ";;"', "[csv], key `delimiter`", "one char", ";;"),
        (TOP + RULE + '[csv]\nencoding = "x"', "[csv], key `encoding`", "an encoding", "x"),
        (TOP + RULE + '[csv]\nencoding = "hex"', "[csv], key `encoding`", "an encoding", "hex"),
        (TOP + RULE + '[csv]\nnull = ""', "[csv], key `null`", "a list of texts", "''"),
        (TOP + RULE + "[csv]\nquote = 1", "[csv], key `quote`", "delimiter, enc", "unknown"),
        (TOP + RULE + '[time]\nformat = "ns"', "[time], key `format`", "iso, s, ms, us", "ns"),
        (TOP + RULE + '[time]\nzone = "Mars"', "[time], key `zone`", "a time zone", "Mars"),
        (TOP + RULE + '[time]\nzone = "../x"', "[time], key `zone`", "a time zone", "../x"),
        (TOP + RULE + RULE, "[[event]] 2, key `name`", "a name that no other", "job.active"),
        (TOP + RULE.replace("active", "done"), "key `type`", "job.created, job.active", "done"),
        (TOP + '[[event]]\njob = "id"', "[[event]] 1, key `type`", "job.created", "nothing"),
        (TOP + '[[event]]\ntype = "active"\ntime = "at"', "key `job`", "a column", "nothing"),
        (TOP + '[[event]]\ntype = "active"\njob = "id"', "key `time`", "a column", "nothing"),
        (TOP + CREATED + 'owner = "o"', "key `job_type`", "a column", "nothing"),
        (TOP + CREATED + 'job_type = "o"', "key `owner`", "a column", "nothing"),
        (TOP + RULE + 'owner = "o"', "key `owner`", "type job.created", "job.active"),
        (TOP + RULE + 'viewers = ["o"]', "key `viewers`", "type job.created", "job.active"),
        (TOP + RULE + 'error = "e"', "key `error`", "job.retry or job.failed", "job.active"),
        (TOP + RULE + 'wroker = "w"', "key `wroker`", "when, worker", "unknown"),
        (TOP + RULE + "worker = 1", "key `worker`", '"{template}"', "1"),
        (TOP + RULE + "worker = {}", "key `worker`", "one of column, template, constant", "none"),
        (TOP + RULE + 'worker = { column = "a", constant = 1 }', "key `worker`", "one of", "col"),
        (TOP + RULE + "worker = { column = 1 }", "worker, key `column`", "a text", "1"),
        (TOP + RULE + 'worker = { column = "a", x = 1 }', "worker, key `x`", "values", "unknown"),
        (TOP + RULE + 'worker = { column = "a", json = true }', "key `json`", "def", "unknown"),
        (TOP + RULE + 'worker = { column = "a", values = { a = 1 } }', "`values`", "texts", "1"),
        (TOP + RULE + "worker = { constant = [1] }", "key `worker`", "that fits", "a text, a"),
        (TOP + RULE + 'attempt = { constant = "x" }', "key `attempt`", "fits", "a whole number"),
        (TOP + RULE + 'attempt = { column = "a", default = "x" }', "`attempt`", "fits", "'x'"),
        (TOP + RULE + 'worker = "{a"', "key `worker`", "a column's name in braces", "{a"),
        (TOP + RULE + 'worker = "a}"', "key `worker`", "a column's name in braces", "a}"),
        (TOP + RULE + 'worker = "{}"', "key `worker`", "a column's name in braces", "{}"),
        (TOP + RULE + 'when = "x"', "[[event]] 1, key `when`", "a table", "'x'"),
        (TOP + RULE + 'when = { column = "x" }', "key `when`", "equals, in, not_in", "none of"),
        (TOP + RULE + 'when = { null = "x", not_null = "y" }', "`when`", "one of", "null, not"),
        (TOP + RULE + "when = { equals = 1 }", "key `column`", "a text", "nothing"),
        (TOP + RULE + 'when = { column = "x", in = 1 }', "key `in`", "a list", "1"),
        (TOP + RULE + 'when = { column = "x", in = [[1]] }', "key `in`", "texts, num", "[1]"),
        (TOP + RULE + 'when = { null = "x", column = "y" }', "key `column`", "one of", "unkn"),
        (TOP + RULE + 'identity = "x"', "key `identity`", "a list of texts", "x"),
        (TOP + RULE + "tags = 1", "key `tags`", "a table", "1"),
        (TOP + RULE + "tags.a = 1", "[tags], key `a`", "a column", "1"),
        (
            TOP + OWNED.replace('"created"', '{ column = "c", values = { a = "b" } }'),
            "key `type`", "one of job.created", "job.b",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(
    tmp_path: Path, text: str, where: str, expected: str, found: str
) -> None:
    with pytest.raises(UsageError) as raised:
        mapping(tmp_path, text)
    error = raised.value
    assert where in (error.where or "")
    assert expected in (error.expected or "")
    assert found in (error.found or "")


@pytest.mark.parametrize("content", [b"source = ", b"\xff", None])
def test_what_is_no_toml_is_said(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "map.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"map\.toml"):
        read_mapping(file)


def test_columns_are_those_of_all_parts(tmp_path: Path) -> None:
    found = mapping(
        tmp_path,
        TOP + OWNED + 'when = [{ not_null = "a" }, { column = "b", equals = 1 }]\n'
        'tags.x = "{c}-{d}"\nviewers = ["user:{e}", { constant = "group:g" }]\nidentity = ["f"]',
    )
    assert found.columns == ("a", "at", "b", "c", "d", "e", "f", "id", "o", "t")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("{a}", ("", "a", "")),
        ("{a}/{b c}", ("", "a", "/", "b c", "")),
        ("x{{{a}}}", ("x{", "a", "}")),
        ("{{}}", ("{}",)),
        ("{a.b[0]!r:>3}", ("", "a.b[0]!r:>3", "")),
    ],
)
def test_templates_know_columns_and_nothing_else(
    tmp_path: Path, text: str, pieces: tuple[str, ...]
) -> None:
    (rule,) = mapping(tmp_path, TOP + RULE + f'worker = "{text}"').rules
    assert rule.fields["worker"] == Part(pieces=pieces)


def test_the_fields_are_those_of_the_events() -> None:
    described = {"job_type", "owner", "bulk_id", "viewers", "writers"}
    assert FIELDS["job.retry"] == {"attempt", "error", "retry_at"}
    assert FIELDS["job.created"] == {"attempt", *described}
    others = {"worker", "progress", "message", "error", "retry_at", "output", "reason"}
    assert {"attempt", *described, *others} == ALL_FIELDS


def test_another_text_is_another_mapping(tmp_path: Path) -> None:
    first = mapping(tmp_path, TOP + RULE)
    assert mapping(tmp_path, TOP + RULE) == first
    assert mapping(tmp_path, TOP + RULE + "\n").fingerprint != first.fingerprint
