"""The words of comments, docstrings, messages and pages: the field's standard ones, and no private vocabulary."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = (".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".md")
pytestmark = pytest.mark.skipif(not (ROOT / "csrc").is_dir(), reason="an installed package has no sources")

CODES = r"(?-i:[GM]\d\d|issue \d+)"
# word -> what to write instead. An alias of an old public name is in EXCEPT.
WORDS = {
    r"curvatures?|curved|bend|bent": "second derivative, twice differentiable, tangent",
    r"way back|on the way down": "backward pass",
    r"matrix units?": "tensor cores (CUDA), AMX tiles (CPU)",
    r"judges?|judged": "discriminator, loss_metrics, check_finite",
    r"spots?|lie of": "offset, layout",
    r"gates?": "predicate, correctness check",
    r"twister": "nothing: dropout seeds come from Philox",
    r"kin|crowd|crowded|crew|company|peers?": "members, population, process group, population size, baselines",
    r"ours": "fastgan's",
    r"doubts?|doubted|settle[sd]?": "flag non-finite, commit or roll back",
    r"memo": "cache",
    r"(first|second)(-level)? cache": "L1, L2",
    r"Inexpressible": "UnsupportedByEngine",
    r"inferer": "encoder",
    r"slips|by heart": "misconceptions, memorised",
    r"nobody|somebody|whoever|anybody": "no caller, another thread, the consumer",
    r"asked for": "requested",
    r"stands|is had|are had|is told|are told": "is, is stored, is computed, is documented",
    r"(?-i:THE) place": "nothing",
    r"for good|the house": "forever, the project",
    CODES: "nothing: codes of plans mean nothing to a reader",
}
EXCEPT = {
    ("fastgan/__init__.py", "inferer"),  # deprecated names
    ("fastgan/training/__init__.py", "inferer"),
    ("fastgan/training/inference.py", "inferer"),
    ("tests/test_deprecation.py", "inferer"),
    ("fastgan/apps/cli/bench.py", "peers"),  # a deprecated flag
}


def pages() -> Iterator[Path]:
    """What a reader of the project reads; generated tables are left out."""
    for folder in ("csrc", "fastgan", "docs", "bench", "examples", "tests", "tools"):
        yield from (path for path in sorted((ROOT / folder).rglob("*")) if path.suffix in KINDS)
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md")


def found(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, word, what to write) of each word of the list."""
    for word, instead in WORDS.items():
        words = word.replace(" ", "[ _]")  # in names too
        for match in re.finditer(rf"(?<![A-Za-z0-9/])(?:{words})(?![A-Za-z0-9])", text, re.IGNORECASE):
            yield text.count("\n", 0, match.start()) + 1, match.group(), instead


def test_no_private_word_is_left() -> None:
    wrong = []
    for path in pages():
        name = path.relative_to(ROOT).as_posix()
        if name in ("docs/acceptance.md", "tests/test_prose.py"):
            continue
        for line, word, instead in found(path.read_text(encoding="utf-8")):
            is_row = name.startswith("tests/") and re.fullmatch(CODES, word)  # of the list of acceptance
            if not is_row and (name, word.lower()) not in EXCEPT:
                wrong.append(f"{name}:{line}: {word!r}, write: {instead}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_word_is_found_and_every_exception_is_needed() -> None:
    for text in ("the way back", "Nobody waits", "it stands there", "an M60 row", "issue 14", "THE place", "our kin"):
        assert list(found(text)), text
    for text in ("the place of each", "kind", "hours", "understands", "float M_PI"):
        assert not list(found(text)), text
    for name, word in EXCEPT:
        assert word in (ROOT / name).read_text(encoding="utf-8").lower(), f"{name} no longer says {word!r}"
