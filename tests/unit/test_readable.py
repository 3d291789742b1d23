"""JSON that common readers can't hold: what is found of it, where, and how it is made readable."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jobtrail.core.errors import EventError
from jobtrail.core.readable import (
    Unportable,
    big_number,
    check_value,
    half_pair,
    items_of,
    json_of,
    may_have_big_numbers,
    not_json_error,
    path_at,
    path_text,
    pointer_of,
    readable,
    unportable_error,
    unwritable_error,
)

#: Numbers beyond a double, in every way of writing them.
BIG = [
    "1e400", "-1e400", "1E400", "1e+400", "-12.75E+0309", "1e00000000400", "2e308",
    "1.7976931348623159e308", "1" + "0" * 309, "9" * 309, "-" + "9" * 309 + ".5", "7" * 4301,
    "9" * 210 + "e99", "9" * 300 + "e9", "123e307", "1e" + "9" * 40, "0.1e310",
]  # fmt: skip
#: Numbers that look so and are not, and the ends of what a double holds.
HELD = [
    "0", "-0", "1e5", "1e-400", "1.7976931348623157e308", "1.7976931348623158e308", "9e307",
    "0e999", "0.0E+999", "123e306", "1" * 308, "1" + "0" * 308, "9" * 400 + "e-300",
    "0." + "0" * 5000 + "1", "9" * 209 + "e99", "18446744073709551616", "1e308",
]  # fmt: skip
#: Strings that have the look of such numbers.
DECEIVING = [
    "1e400", ",1e400,", ": 1e400 ]", "e,", ",e,", "9" * 400, "\\", '"1e400', "é1e400",
    "4f1e400a-1e40-4e12-8e45-123456e89012", "[1e400]",
]  # fmt: skip
HALVES = [r"\ud800", r"\uDBFF", r"\udc00", r"\uDFFF", r"\ud800\ud800", r"\udc00\ud83d", r"\ud83dx"]
NO_HALVES = [r"\ud83d\ude00", r"\\ud800", r"\\\\ud800", r"\u0064800", r"\"\\", "ud800", r"\ud7ff"]

#: What goes round a value: at the end of text, behind blanks, among others, far from the beginning.
ROUND = ['{"a":@}', '{"a": @ }', "[@,1]", "[1,@]", '{"a":{"b":[[],{"c":@\n}]},"z":1}', "[ @\t]"]
PADDED = [*ROUND, '{"pad":"' + "x" * 3000 + '","a":@}', '[@,"' + "1e400 " * 500 + '"]']


# --- numbers


@pytest.mark.parametrize("whole", PADDED)
def test_a_number_beyond_a_double_is_found_wherever_it_stands(whole: str) -> None:
    for number in BIG:
        value = whole.replace("@", number).encode()
        assert may_have_big_numbers(value), number[:40]
        found = big_number(value)
        assert found is not None
        assert number.startswith(found.found.partition("...")[0])
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(value)


@pytest.mark.parametrize("whole", PADDED)
def test_a_number_that_a_double_holds_is_none_of_them(whole: str) -> None:
    for number in HELD:
        value = whole.replace("@", number).encode()
        assert big_number(value) is None, number[:40]
        assert readable(value) == value
        assert orjson.loads(value)


@pytest.mark.parametrize("whole", PADDED)
def test_a_string_is_no_number_whatever_it_says(whole: str) -> None:
    for text in DECEIVING:
        value = whole.replace("@", json.dumps(text, ensure_ascii=False)).encode()
        assert big_number(value) is None
        assert readable(value) == value
        within = json.dumps({text: [text, -1e308], "n": 0}).encode().replace(b"-1e+308", b"-1e309")
        assert big_number(within) == Unportable((text, 1), "-1e309")


def test_most_json_is_clear_at_one_look() -> None:
    ids = ["4f12e400-1e23-4e12-8e45-123456e89012", "2026-11-23T13:00:00.123Z", "a1.5e300"]
    plain = json.dumps({"ids": ids, "n": [0, 41, 0.5, 1.25], "l": 10**100, "true": True}).encode()
    assert not may_have_big_numbers(plain)
    assert not may_have_big_numbers(plain * 20)
    # A run of digits is looked at from the length that could matter.
    assert not may_have_big_numbers(b"[" + b"1" * 180 + b"]")


@pytest.mark.parametrize("sign", ["", "+", "-"])
@pytest.mark.parametrize("end", ["]", ",1]", " ]", "\n]", ".", "x", '"'])
@pytest.mark.parametrize("digits", [1, 2, 3, 4, 9, 10, 11, 12, 30])
@pytest.mark.parametrize("letter", ["e", "E"])
def test_high_exponents_are_found_in_much_json(
    letter: str, digits: int, end: str, sign: str
) -> None:
    text = f"[{'0,' * 2000}7{letter}{sign}{'1' * digits}{end}".encode()
    high = digits >= 3 and sign != "-" and end not in (".", "x", '"')
    assert may_have_big_numbers(text) == high
    # Where the text ends, too.
    assert not may_have_big_numbers(text[: text.index(b"7") + 2 + len(sign) + digits])


def test_a_long_number_is_told_by_its_beginning_and_its_length() -> None:
    found = big_number(b"[%b]" % (b"9" * 4301))
    assert found == Unportable((0,), "9" * 40 + "... (4,301 characters)")
    assert big_number(b"[%b]" % (b"1e" + b"9" * 38)) == Unportable((0,), "1e" + "9" * 38)


numbers = st.from_regex(r"\A-?(?:0|[1-9][0-9]{0,400})(?:\.[0-9]{1,9})?(?:[eE][+-]?[0-9]{1,5})?\Z")
texts = st.text(max_size=9) | st.sampled_from(DECEIVING)
documents = st.recursive(
    numbers | st.sampled_from([*BIG, *HELD, "true", "null"]) | texts.map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(texts.map(json.dumps), inner, max_size=4).map(
            lambda members: "{" + " , ".join(f"{k} : {v}" for k, v in members.items()) + "}"
        )
    ),
    max_leaves=12,
)


def holds(value: bytes) -> bool:
    """Tell whether a reader that knows all numbers finds none beyond a double, the slow way."""
    beyond: list[str] = []

    def number(text: str) -> int:
        if math.isinf(float(text)):
            beyond.append(text)
        return 0

    json.loads(value, parse_float=number, parse_int=number)
    return not beyond


@given(st.lists(documents, min_size=1, max_size=5), st.booleans())
@example(["[1e400]"], True)
def test_what_is_found_is_what_a_slow_reader_finds(found: list[str], large: bool) -> None:
    value = f"[{','.join(found)}{',' + json.dumps('x' * 2048) if large else ''}]".encode()
    held = holds(value)
    assert (big_number(value) is None) == held
    assert held or may_have_big_numbers(value)
    made = readable(value)
    assert big_number(made) is None
    assert msgspec.json.decode(made) is not None
    assert orjson.loads(made) is not None
    assert held == (made == value)


# --- halves of pairs


def test_half_of_a_pair_is_found_and_becomes_a_character() -> None:
    for half in HALVES:
        value = b'{"a":["",{"b":"x%b"}]}' % half.encode()
        found = half_pair(value)
        assert found is not None
        assert found.path == ("a", 1, "b")
        assert found.found in half
        made = msgspec.json.decode(readable(value))
        assert "�" in made["a"][1]["b"]
        assert isinstance(json.loads(value)["a"][1]["b"], str)
    for whole in NO_HALVES:
        value = b'{"a":"%b"}' % whole.encode()
        assert half_pair(value) is None
        assert readable(value) == value


def test_half_of_a_pair_in_a_name_is_named_by_where_it_stands() -> None:
    assert half_pair(rb'{"a":{"b\ud800":1}}') == Unportable(("a", "b�"), r"\ud800")


# --- paths


def test_a_path_leads_to_what_stands_at_a_place() -> None:
    value = b'{"a":[1,{"b c":[[],{},2]},"x,]"], "d\\"/~":{"e":[[3]]}}'
    for token, path in {
        b"1,{": ("a", 0),
        b"2]": ("a", 1, "b c", 2),
        b'"x': ("a", 2),
        b"3]": ('d"/~', "e", 0, 0),
    }.items():
        assert path_at(value, value.index(token)) == path
    assert path_at(b"1", 0) == ()
    assert path_at(b"]]}}[,1", 6) == (1,)
    assert path_at(b',"a"', 1) == (1,)


def test_paths_are_written_for_people_and_as_pointers() -> None:
    assert path_text(()) == ""
    assert path_text(("data", "output", "x", 3)) == "data.output.x[3]"
    assert path_text((0, "a")) == "[0].a"
    assert path_text(("a", "b c", "é", "")) == 'a["b c"]["\\u00e9"][""]'
    assert path_text(("a" * 200,)) == "a" * 200
    assert path_text(("a" * 201,)) == "a" * 200 + "..."
    assert pointer_of(()) == ""
    assert pointer_of(("data", 3, "a/b~c", "")) == "/data/3/a~1b~0c/"


# --- errors


def test_an_error_names_the_member_and_what_is_there() -> None:
    error = unportable_error(Unportable(("data", "x", 3), "1e400"))
    assert (error.reason, error.path, error.where) == ("invalid", ("data", "x", 3), "data.x[3]")
    assert "1.8e308" in str(error.expected)
    assert str(error).startswith("The event has JSON that common readers can't hold. Where: data.x")
    half = unportable_error(Unportable((), r"\ud800"), "The row")
    assert (half.reason, half.where, half.found) == ("not-json", None, r"\ud800")
    assert "pair" in str(half.expected)
    assert str(half).startswith("The row has")


def test_half_of_a_pair_is_named_only_where_it_is_all_that_is_wrong() -> None:
    named = not_json_error(rb'{"a":"\ud800"}', "fault")
    assert (named.path, named.found, named.reason) == (("a",), r"\ud800", "not-json")
    for value in (
        b"{",
        rb'[-2.5.e1, 1.e400, 1e400e, "\ud800"]',
        rb'{"a":"\ud800"',
        rb'{"a":"\ud800"]}',
        rb"\ud800",
    ):
        error = not_json_error(value, "fault")
        assert (error.path, error.found, error.reason) == ((), "fault", "not-json")


# --- values and arrays as they come


def test_one_value_is_told_from_none_and_from_more() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    for value in (b"1", b' {"a":1} ', rb'"\ud800"', b"1e400", deep, b'"\xff"'):
        check_value(value)
    for value in (
        b"",
        b"1,2",
        b'1,"a":2',
        b'"a',
        b"{",
        b"01",
        rb'"\ud800" 1',
        b"NaN",
        b"\xef\xbb\xbf1",
    ):
        with pytest.raises(EventError) as refused:
            check_value(value)
        assert (refused.value.reason, refused.value.path) == ("not-json", ("data",))
        assert refused.value.found


def test_items_of_an_array_are_told_apart_also_where_no_reader_holds_them() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    items = [b"1", b' {"a":",]"} ', rb'{"a":"\ud800"}', deep, b"[[],[2,3]]", b'"\\""', b"1e400"]
    assert items_of(b" [" + b",".join(items) + b"]\r\n") == items
    assert items_of(b"[ ]") == []
    assert items_of(b"[]") == []
    assert items_of(b"[1]") == [b"1"]
    cut = [b"", b"1", b"{}", b"[1", b"[1]]", b"[1] 2", b'["', b'{"a":1}', b"]["]
    for value in (*cut, b"[1,,2]", b"[1,]", b"[{]}]", b"[01]"):
        assert items_of(value) is None, value


@given(st.lists(documents, max_size=5))
def test_items_of_any_array_are_those_that_were_put_together(items: list[str]) -> None:
    assert items_of(f"[{','.join(items)}]".encode()) == [item.encode() for item in items]


# --- values of Python


class Point(msgspec.Struct):
    """Something that is written as an object."""

    x: float


def unwritten(value: Any) -> EventError:
    with pytest.raises(EventError) as refused:
        json_of(value, ("data", "output"))
    return refused.value


@pytest.mark.parametrize(
    ("value", "path", "found"),
    [
        (math.nan, (), "nan"),
        (-math.inf, (), "-inf"),
        ([1, None, {"a": [math.inf]}], (2, "a", 0), "inf"),
        ((Point(1), Point(math.nan)), (1, "x"), "nan"),
        ("a\ud800", (), r"\ud800"),
        ({"a": ["\udfff"]}, ("a", 0), r"\udfff"),
        ({"a\ud800": 1}, ("a�",), r"\ud800"),
        ({"a": 1, "b": 10**5000}, ("b",), "an integer of 16,610 bits"),
        ({"a": [None, object()]}, (), "Encoding objects of type object is unsupported"),
        ({"n": math.nan, "o": object()}, ("n",), "nan"),
    ],
)
def test_what_no_json_is_for_is_named(value: Any, path: tuple[Any, ...], found: str) -> None:
    error = unwritten(value)
    assert error.path == ("data", "output", *path)
    assert error.found == found
    assert error.where == path_text(error.path)
    assert pointer_of(error.path).encode()


def test_what_json_is_for_is_written_as_it_is() -> None:
    for value in (None, [None, 1.5], {"null": "null"}, "é😀", 2**70, Point(2.5), True, {1: "a"}):
        assert bytes(json_of(value, ())) == msgspec.json.encode(value)
    # What is JSON already is looked at when the event is decoded.
    assert bytes(json_of([None, msgspec.Raw(b"1e400")], ())) == b"[null,1e400]"


def test_a_value_without_an_end_is_no_json() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert unwritten(endless).reason == "not-json"
    error = unwritable_error(endless, (), "why")
    assert (error.found, error.where) == ("why", None)
