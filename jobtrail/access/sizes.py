"""Sizes of tokens, for those who read or refuse them without the means to check them."""

from __future__ import annotations

from typing import Final

#: The longest token that is looked at, in characters: a valid one is ASCII.
MAX_TOKEN_BYTES: Final = 8 * 1024
