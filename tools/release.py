"""Prepares a release, or checks what a tag names.

Usage: python tools/release.py VERSION, in a checkout, writes the version into fastgan/__init__.py and CITATION.cff, and
dates the changes of CHANGELOG.md. python tools/release.py --check TAG fails with one sentence where the sources are not
of that version.
"""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

_MODULE, _CITATION, _CHANGES = "fastgan/__init__.py", "CITATION.cff", "CHANGELOG.md"
_IN_MODULE = re.compile(r'^__version__ = "([^"]*)"', re.M)
_IN_CITATION = re.compile(r"^version: (\S+)$", re.M)
_HEADING = re.compile(r"^## (\S+).*$", re.M)


def disagreement(root: Path, tag: str | None = None) -> str | None:
    """What is wrong with the versions in the sources, in one sentence. A tag needs dated changes."""
    version = _only(_IN_MODULE, root / _MODULE)
    if (cited := _only(_IN_CITATION, root / _CITATION)) != version:
        return f"{_CITATION} must give version {version} as {_MODULE} does, got {cited}"
    headings = _HEADING.findall((root / _CHANGES).read_text(encoding="utf-8"))
    if tag is None:
        headings = [heading for heading in headings if heading != "Unreleased"]
    if headings[:1] != [version]:
        return f"the newest heading of {_CHANGES} must be {version}, got {', '.join(headings[:1]) or 'none'}"
    if tag is not None and tag != f"v{version}":
        return f"the tag must be v{version}, got {tag}"
    return None


def prepare(root: Path, version: str, today: datetime.date) -> None:
    """Makes the changes since the last release those of `version`."""
    before = _only(_IN_MODULE, root / _MODULE)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version) or _numbers(version) < _numbers(before):
        raise SystemExit(f"release.py: the version must be three numbers X.Y.Z from {before} on, got {version}")
    changes = (root / _CHANGES).read_text(encoding="utf-8")
    if "\n## Unreleased\n" not in changes or f"\n## {version}" in changes:
        raise SystemExit(f"release.py: {_CHANGES} must have a heading Unreleased and none of {version}")
    _write(root / _CHANGES, changes.replace("\n## Unreleased\n", f"\n## {version} ({today})\n"))
    module = (root / _MODULE).read_text(encoding="utf-8")
    _write(root / _MODULE, _IN_MODULE.sub(f'__version__ = "{version}"', module))
    citation = re.sub(r"^date-released: .*\n", "", (root / _CITATION).read_text(encoding="utf-8"), flags=re.M)
    _write(root / _CITATION, _IN_CITATION.sub(f"version: {version}\ndate-released: {today}", citation))


def _only(pattern: re.Pattern[str], path: Path) -> str:
    (found,) = pattern.findall(path.read_text(encoding="utf-8"))
    return str(found)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> None:
    root = Path(__file__).resolve().parents[1]
    match arguments:
        case ["--check", tag]:
            if (wrong := disagreement(root, tag)) is not None:
                raise SystemExit(f"release.py: {wrong}")
        case [version]:
            prepare(root, version, datetime.date.today())
            print(f"git commit -am 'Release {version}' && git tag -a v{version} -m 'fastgan {version}'")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
