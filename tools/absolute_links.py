"""The README for the page of a package index, on which relative links lead nowhere.

Usage: python tools/absolute_links.py README.md URL REF, before a release is built. It rewrites the file. URL is the
address of the repository on GitHub, REF a tag or a branch.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_RELATIVE = re.compile(r"\]\((?![a-z]+:|#)([^)\s]+)\)")
_PICTURES = (".png", ".svg")


def absolute(text: str, url: str, ref: str) -> str:
    """The text with every relative link as one into the repository; of pictures, to their bytes."""

    def link(found: re.Match[str]) -> str:
        kind = "raw" if found[1].endswith(_PICTURES) else "blob"
        return f"]({url}/{kind}/{ref}/{found[1]})"

    return _RELATIVE.sub(link, text)


if __name__ == "__main__":
    file, url, ref = sys.argv[1:]
    Path(file).write_text(absolute(Path(file).read_text(encoding="utf-8"), url.rstrip("/"), ref), encoding="utf-8")
