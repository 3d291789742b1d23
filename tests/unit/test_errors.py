"""The tree of errors: fields beside text, and `retriable` as a property of the class."""

from __future__ import annotations

import inspect

import pytest

from jobtrail.core import errors
from jobtrail.core.errors import EventError, FencedError, JobtrailError, LogGapError, StoreError

FIELDS = {"expected": "a port", "found": "a dog", "where": "line 7", "hint": "Free the port."}
TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]
# Whether the same call may succeed later without anybody mending anything is decided by hand.
RETRIABLE = {"LogUnavailable", "StoreNotReady"}


def make(cls: type[JobtrailError], **fields: str) -> JobtrailError:
    if cls is EventError:
        return EventError("It broke.", reason="invalid", **fields)
    return cls("It broke.", **fields)


@pytest.mark.parametrize("cls", TREE)
def test_every_error_carries_its_fields(cls: type[JobtrailError]) -> None:
    error = make(cls, **FIELDS)
    assert error.what == "It broke."
    assert {name: getattr(error, name) for name in FIELDS} == FIELDS


@pytest.mark.parametrize("cls", TREE)
def test_fields_that_are_not_given_are_none(cls: type[JobtrailError]) -> None:
    error = make(cls)
    assert [getattr(error, name) for name in FIELDS] == [None] * 4
    assert str(error) == "It broke."


@pytest.mark.parametrize("cls", TREE)
def test_the_text_says_all_fields_in_order(cls: type[JobtrailError]) -> None:
    text = "It broke. Where: line 7. Expected: a port. Found: a dog. Free the port."
    assert str(make(cls, **FIELDS)) == text


@pytest.mark.parametrize("name", FIELDS)
def test_the_text_leaves_out_what_is_not_known(name: str) -> None:
    text = str(JobtrailError("It broke.", **{name: "x y"}))
    words = {"expected": "Expected: x y.", "found": "Found: x y.", "where": "Where: x y."}
    assert text == f"It broke. {words.get(name, 'x y')}"


@pytest.mark.parametrize("cls", TREE)
def test_retriable_is_a_property_of_the_class(cls: type[JobtrailError]) -> None:
    assert cls.retriable is (cls.__name__ in RETRIABLE)
    assert "retriable" not in vars(make(cls))


def test_the_errors_decided_on_here_exist() -> None:
    assert {cls.__name__ for cls in TREE} >= RETRIABLE


@pytest.mark.parametrize("cls", TREE)
def test_every_error_is_of_the_one_tree_and_says_what_it_means(cls: type[JobtrailError]) -> None:
    assert issubclass(cls, JobtrailError)
    assert "__doc__" in vars(cls)
    assert cls.__doc__


def test_an_error_of_an_event_carries_its_reason_as_a_field() -> None:
    error = EventError("The event is not JSON.", reason="not-json", found="x")
    assert (error.reason, error.found) == ("not-json", "x")
    assert "not-json" not in str(error)


def test_a_caught_store_error_covers_fences_and_gaps() -> None:
    assert issubclass(FencedError, StoreError)
    assert issubclass(LogGapError, StoreError)
