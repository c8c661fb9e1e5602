"""What the editable build of `make test` (FASTGAN_WERROR=ON) has checked: tests need not compile it again."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def _files() -> list[Path]:
    return [ROOT / "CMakeLists.txt", *(path for path in (ROOT / "csrc").rglob("*.*") if path.is_file())]


def flags(source: Path) -> list[list[str]]:
    """The options of each object that such a build made of `source` since the sources last changed."""
    found = []
    changed = max(path.stat().st_mtime for path in _files())
    wanted = rf"^build (\S+/{re.escape(str(source.relative_to(ROOT)))}\.o): .*\n(?:  .*\n)*?  FLAGS = (.*)$"
    for rules in (ROOT / "build").glob("*/build.ninja"):
        for name, options in re.findall(wanted, rules.read_text(), re.M):
            made = rules.parent / name
            if "-Werror" in options and made.exists() and made.stat().st_mtime > changed:
                found.append(options.split())
    return found
