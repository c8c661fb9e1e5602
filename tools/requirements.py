"""What extras of fastgan require, for pip: python tools/requirements.py EXTRA ..."""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirements(extra: str) -> list[str]:
    """The requirements of an extra, those of the extras it names included."""
    result: list[str] = []
    for requirement in PROJECT["optional-dependencies"][extra]:
        own = re.fullmatch(r"fastgan\[(.*)\]", requirement)
        result += [r for e in own[1].split(",") for r in requirements(e.strip())] if own else [requirement]
    return result


if __name__ == "__main__":
    print(*PROJECT["dependencies"], *(r for extra in sys.argv[1:] for r in requirements(extra)), sep="\n")
