"""Words that the text of `jobtrail/` does not use, since readers of English have to look them up.

Code, comments and messages are read by people whose first language is another one, in a hurry. For
each of these words the field or plain English has a common one.
"""

from __future__ import annotations

import re

import pytest

from tests.unit.test_architecture import files_in, source

#: By word what to write in its place.
INSTEAD = {
    "anew": "again",
    "astray": "in the wrong partition",
    "betimes": "early",
    "buried": "sent to the dead letters",
    "bury": "send to the dead letters",
    "henceforth": "from now on",
    "hitherto": "so far",
    "lest": "so that ... not",
    "meanwhile": "since, in between",
    "thence": "from there",
    "thereof": "of it",
    "whence": "from where",
    "whoever": "the caller, the reader",
}
#: Fixed names that users type.
NAMES = re.compile("--anew")
WORDS = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)


def words_in(text: str) -> list[str]:
    """Return the words of a text that are not used, each with what to write instead."""
    found = [match[0].lower() for match in WORDS.finditer(NAMES.sub("", text))]
    return [f"{word}: {INSTEAD[word]}" for word in found]


@pytest.mark.parametrize("file", files_in("jobtrail"))
def test_the_text_is_in_common_words(file: str) -> None:
    assert words_in(source(file)) == []


def test_a_word_is_found_in_any_case_and_a_fixed_name_is_none() -> None:
    assert words_in("# Whoever reads --anew") == ["whoever: the caller, the reader"]
