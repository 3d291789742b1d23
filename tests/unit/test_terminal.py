"""What others wrote is shown, never obeyed: by texts, JSON, tables, errors and logs."""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.cli import explain
from jobtrail.client import HistoryEntry, Job
from jobtrail.client.explain import explain_history
from jobtrail.terminal.tables import Grid, Screen
from jobtrail.terminal.text import (
    VisibleFormatter,
    complain,
    err_part,
    out,
    out_json,
    visible,
    visible_json,
)

#: Titles, screens, clipboards, links, colours, reversed and hidden text, and rich's own markup.
HOSTILE = (
    "\x1b]0;title\x07", "\x1b[2J\x1b[H", "\x1b]52;c;cm0gLXJm\x07", "\x1b]8;;http://x\x1b\\y",
    "\x9b31m", "\x9d0;t\x9c", "\x90q\x9c", "\x7f\x7f", "\b\b\bok", "a\rb", "a\nok       all: well",
    "a\tb", "\u202eexe.txt", "\u2066a\u2069", "\u200bzero", "\ufeffbom", "\u00ad", "\u2028",
    "\u3164", "\U000e0041", "\ufe0f", "\u115f", "\ud800", "\x00", "\x85",
)  # fmt: skip
MARKUP = ("[/]", "[/bold]", "[link=http://x]y[/link]", "[bold", "[@click=exit]x[/]", ":bomb:")


def is_harmless(text: str) -> bool:
    """Whether a terminal shows every character of a line and obeys none."""
    return all(
        unicodedata.category(c) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for c in text
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_obey_is_shown(text: str) -> None:
    shown = visible(text)
    assert is_harmless(shown)
    assert shown.encode()
    assert shown != text


@pytest.mark.parametrize(
    "text", ["", "plain", "Grüße", "処理\u3000完了", "عربي", "😀", "a b", *MARKUP]
)
def test_what_is_plain_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_an_escape_says_which_character_it_was() -> None:
    assert visible("\x1b\x9b\u202e\n\U000e0041\xa0") == "\\x1b\\x9b\\u202e\\n\\U000e0041\xa0"


@given(st.text())
def test_no_text_is_obeyed(text: str) -> None:
    assert is_harmless(visible(text))


@given(st.recursive(st.none() | st.text(), lambda c: st.lists(c) | st.dictionaries(st.text(), c)))
def test_json_stays_the_same(value: object) -> None:
    content = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    shown = visible_json(content)
    assert json.loads(shown) == value
    assert is_harmless(shown.decode().replace("\n", "").replace("\t", ""))


def test_json_of_another_form_can_not_move_the_cursor() -> None:
    assert visible_json(b'{\r"a":\r1}') == b'{ "a": 1}'


@pytest.mark.parametrize("text", [*HOSTILE, *MARKUP])
def test_tables_and_lines_show_every_text_as_it_is(text: str) -> None:
    shown = io.StringIO()
    screen = Screen(file=shown, width=200)
    grid = Grid("name", text)
    grid.add(text, "x")
    screen.show(grid)
    screen.say(text)
    assert is_harmless(shown.getvalue().replace("\n", ""))
    assert shown.getvalue().count(visible(text)) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_lines_errors_and_the_words_of_processes_are_safe(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out(text)
    out_json(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    complain(ValueError(f"first {text}"), "error: ")
    err_part(f"{text.replace(chr(10), '')}\n")
    said = capsys.readouterr()
    lines = (said.out + said.err).split("\n")
    assert all(map(is_harmless, lines))
    assert not any(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_log_line_stays_one_line(text: str) -> None:
    record = logging.LogRecord("x", logging.ERROR, "", 0, "action=failed %s", (text,), None)
    assert is_harmless(VisibleFormatter("%(levelname)s %(message)s").format(record))
    try:
        raise ValueError(text)
    except ValueError:
        record.exc_info = sys.exc_info()
    assert all(map(is_harmless, VisibleFormatter().format(record).split("\n")))


def test_a_job_of_a_hostile_producer_is_explained() -> None:
    text = "".join(HOSTILE[:10]) + "".join(MARKUP)
    at = datetime(2026, 11, 23, tzinfo=UTC)
    event = {
        "specversion": "1.0", "id": text, "source": text, "type": "job.failed", "subject": "j",
        "time": at.isoformat(), "data": {"error": {"message": text}, "output": text},
    }  # fmt: skip
    entry = {
        "type": "job.failed", "time": at, "verdict": "applied", "state": "failed", "partition": 0,
        "offset": 0, "event": event,
    }  # fmt: skip
    job = {
        "id": text, "state": "failed", "output": None, "jobType": text, "owner": text,
        "bulkId": None, "createdAt": at, "startedAt": None, "updatedAt": at, "endedAt": at,
        "attempt": 0, "progress": None, "error": None, "tags": {}, "viewers": [],
    }  # fmt: skip
    explanation = explain_history([msgspec.convert(entry, HistoryEntry)], at)
    shown = io.StringIO()
    explain.show(msgspec.convert(job, Job), explanation, Screen(file=shown, width=400))
    assert is_harmless(shown.getvalue().replace("\n", ""))
    assert "[/bold]" in shown.getvalue()


def test_an_error_that_nobody_caught_is_safe_too() -> None:
    from jobtrail.terminal.text import _print_uncaught

    errors = io.StringIO()
    keep, sys.stderr = sys.stderr, errors
    try:
        _print_uncaught(ValueError, ValueError("\x1b]0;x\x07"), None)
    finally:
        sys.stderr = keep
    assert all(map(is_harmless, errors.getvalue().split("\n")))
