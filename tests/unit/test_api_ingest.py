"""Attributes that are headers, and media types of JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobtrail.core.errors import EventError
from jobtrail.core.events import decode, is_json_type
from services.api.routes.ingest import text_of

EVENT = {
    "specversion": "1.0", "id": "e", "source": "//x", "type": "job.active", "subject": "j",
}  # fmt: skip


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("plain", "plain"),
        ('"quoted"', "quoted"),
        ('"a b"', "a b"),
        (r'"say \"hi\" \\ all"', r'say "hi" \ all'),
        ('"Euro%20%E2%82%AC"', "Euro €"),
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("%22x%22", '"x"'),
        ("%2541", "%41"),
        ("100%", "100%"),
        ("%zz", "%zz"),
        ("é", "é"),
        ('""', ""),
        (r"a\b", r"a\b"),
    ],
)
def test_a_header_is_decoded_as_the_binding_says(header: str, text: str) -> None:
    assert text_of(header) == text


@pytest.mark.parametrize("header", ['"', 'a"b', '"a\\"', "\udcff", "%ff", "%C3"])
def test_a_header_that_says_nothing_is_refused(header: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        text_of(header)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_the_binding_encodes_comes_back(text: str) -> None:
    encoded = "".join(
        c if "!" <= c <= "~" and c not in '"%' else "".join(f"%{b:02X}" for b in c.encode())
        for c in text
    )
    assert text_of(encoded) == text


@pytest.mark.parametrize(
    ("form", "taken"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ("Application/JSON;charset=UTF-8;x=y", True),
        ("application/vnd.acme.job+json", True),
        ("application/problem+json; profile=x", True),
        ("text/json", True),
        ("application/cloudevents", False),
        ("text/plain", False),
        ("application/jsonp", False),
        ("application/x-json", False),
        ("json", False),
        ("", False),
    ],
)
def test_data_may_be_of_any_media_type_of_json(form: str, taken: bool) -> None:
    assert is_json_type(form) is taken
    value = json.dumps({**EVENT, "datacontenttype": form}).encode()
    if taken:
        assert decode(value).datacontenttype == form
    else:
        with pytest.raises(EventError, match="datacontenttype"):
            decode(value)


def test_bytes_for_data_are_refused_by_their_name() -> None:
    with pytest.raises(EventError, match="data_base64") as refused:
        decode(json.dumps({**EVENT, "data_base64": "eyJ3b3JrZXIiOiJ3In0="}).encode())
    assert refused.value.reason == "invalid"
    decode(json.dumps({**EVENT, "data_base64": None}).encode())
