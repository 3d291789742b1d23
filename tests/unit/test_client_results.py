"""Answers as the client decodes them, those that hold what no reader does among them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from jobtrail.contract.results import Status, decoded


def status(output: bytes) -> bytes:
    return b'{"id":"j","state":"completed","output":%b}' % output


@pytest.mark.parametrize(
    ("output", "held"),
    [
        (b'{"x":[1e400,1.50],"y":"1e400"}', {"x": ["1e400", 1.5], "y": "1e400"}),
        (b"7" * 4301, "7" * 4301),
        (rb'["a\ud800b",{"\udc00":1},"\ud83d\ude00"]', ["a�b", {"�": 1}, "😀"]),
        (b"[1,null]", [1, None]),
    ],
)
def test_what_an_old_log_holds_is_given_so_that_it_can_be_held(output: bytes, held: Any) -> None:
    found = decoded(status(output), Status)
    assert found.output == held
    # And goes out again.
    assert msgspec.json.decode(msgspec.json.encode(found.output)) == held


@pytest.mark.parametrize("content", [b"", b"{", status(b"01"), b'{"id":1}', b'{"id":"\\ud800"}'])
def test_another_answer_is_none(content: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decoded(content, Status)
