"""The client's reader of server-sent events: the same blocks, however they are cut."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

from hypothesis import given
from hypothesis import strategies as st

from jobtrail.client.sse import Message, messages

STREAM = (
    b"retry: 1000\nid: 0:1\n\n"
    b"id: 0:2,1:7\nevent: job.created\ndata: {}\n\n"
    b":a comment\n\n"
    b"data: one\ndata:two\n\n"
    b"id\n\n"
    b"id: 0:3\ndata: \xc3\xa9\n\n"
    b"data: this one is cut off"
)
EXPECTED = [
    Message("0:1", b""),
    Message("0:2,1:7", b"{}"),
    Message(None, b""),
    Message(None, b"one\ntwo"),
    Message("", b""),
    Message("0:3", b"\xc3\xa9"),
]


@given(st.lists(st.integers(0, len(STREAM))))
async def test_the_pieces_in_which_a_stream_comes_do_not_matter(cuts: list[int]) -> None:
    places = sorted({0, *cuts, len(STREAM)})

    async def chunks() -> AsyncIterator[bytes]:
        for begin, end in itertools.pairwise(places):
            yield STREAM[begin:end]

    assert [message async for message in messages(chunks())] == EXPECTED
