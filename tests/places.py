"""Find a text in a source file whatever its line breaks and blanks are, so that a formatter may move them."""

from __future__ import annotations


def places(text: str, wanted: str) -> list[tuple[int, int]]:
    """Start and end of each occurrence of `wanted` in `text`, both compared without white space."""
    at = [i for i, character in enumerate(text) if not character.isspace()]
    bare, needle = "".join(text[i] for i in at), "".join(wanted.split())
    found, start = [], bare.find(needle)
    while needle and start >= 0:
        found.append((at[start], at[start + len(needle) - 1] + 1))
        start = bare.find(needle, start + 1)
    return found
