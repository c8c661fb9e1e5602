"""The guide: every block of code on its pages runs, and a number in a comment is what its line gives.

A page is read from top to bottom: its blocks share their names and one empty folder. `python` blocks are executed;
where a line is an expression with a number behind it in a comment, the two must agree to the last digit written.
`sh` blocks hold `fastgan ...` commands. `text` blocks report what was measured and are not run.
"""

from __future__ import annotations

import ast
import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastgan.apps.cli import main

GUIDE = Path(__file__).parent.parent / "docs" / "guide"
if not GUIDE.is_dir():
    pytest.skip("an installed package has no docs folder", allow_module_level=True)
for library in ("matplotlib", "sklearn", "PIL"):
    pytest.importorskip(library, reason="the guide draws pictures and uses the digits")

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
_NUMBER = re.compile(r"[-+]?(?:inf|nan|\d+(?:\.(\d*))?(?:e([-+]?\d+))?)")


@dataclass(frozen=True)
class Block:
    page: str
    number: int
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}-{self.language}"


def blocks_of(path: Path) -> Iterator[Block]:
    page = path.read_text(encoding="utf-8")
    for number, match in enumerate(_FENCE.finditer(page)):
        yield Block(path.stem, number, page[: match.start(2)].count("\n") + 1, match[1], match[2])


OUTSIDE = ("README", "how-to")  # the list of pages, and the answers beside the guide
PAGES = {path.stem: path for path in (*sorted(GUIDE.glob("*.md")), GUIDE.parent / "how-to.md")}
BLOCKS = [block for path in PAGES.values() for block in blocks_of(path)]


@dataclass
class Reading:
    """A page as far as it has been read."""

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "guide"})
    done: int = 0

    def up_to(self, block: Block) -> None:
        """Run what comes before the block, and then the block."""
        for earlier in [each for each in BLOCKS if each.page == block.page][self.done : block.number + 1]:
            self.done = earlier.number + 1
            if earlier.language == "python":
                self._python(earlier)
            elif earlier.language == "sh":
                for command in earlier.text.replace("\\\n", " ").splitlines():
                    run_command(command)

    def _python(self, block: Block) -> None:
        padded = "\n" * (block.line - 1) + block.text
        lines = padded.splitlines()
        for statement in ast.parse(padded).body:
            if not isinstance(statement, ast.Expr):
                tree = ast.Module([statement], [])
                exec(compile(tree, f"{block.page}.md", "exec"), self.names)
                continue
            value = eval(compile(ast.Expression(statement.value), f"{block.page}.md", "eval"), self.names)
            _, _, comment = lines[(statement.end_lineno or 0) - 1][statement.end_col_offset :].partition("# ")
            check_comment(value, comment.strip(), f"{block.page}.md:{statement.lineno}")


def run_command(command: str) -> None:
    words = shlex.split(command, comments=True)
    if words:
        assert words[0] == "fastgan", f"not a command of fastgan: {command}"
        assert main(words[1:]) == 0, command


def check_comment(value: Any, comment: str, where: str) -> None:
    """Numbers alone, as 0.1423 or (0.3448, 0.9091) or True: each is right to half a unit of its last digit."""
    if comment in ("True", "False"):
        assert bool(np.all(value)) == (comment == "True"), f"{where}: {value}"
        return
    if not re.fullmatch(r"[\d.,()\[\] e+-]*|-?inf", comment) or not (written := list(_NUMBER.finditer(comment))):
        return
    found = np.asarray(value, np.float64).ravel()
    assert len(found) == len(written), f"{where}: {value} is not {comment}"
    for number, match in zip(found, written, strict=True):
        expected = float(match[0])
        unit = 10.0 ** (int(match[2] or 0) - len(match[1] or ""))
        assert number == expected or abs(number - expected) <= 0.5000001 * unit, f"{where}: {value} is not {comment}"


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    return {page: Reading(tmp_path_factory.mktemp(page)) for page in PAGES}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language != "text"], ids=lambda block: block.name)
@pytest.mark.filterwarnings("ignore:KMeans")
def test_M38_every_block_of_the_guide_runs(
    block: Block, readings: dict[str, Reading], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert block.language in ("python", "sh"), f"{block.name}: say python, sh or text"
    reading = readings[block.page]
    monkeypatch.chdir(reading.folder)
    reading.up_to(block)


def test_M38_the_guide_begins_with_the_counterfeiters() -> None:
    assert "counterfeiter" in PAGES["README"].read_text() and "police" in PAGES["README"].read_text()
    assert {block.page for block in BLOCKS if block.language == "python"} >= set(PAGES) - {"README"}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in _LINK.findall(PAGES[page].read_text(encoding="utf-8")):
        assert "://" in target or (PAGES[page].parent / target).exists(), f"{page}: {target}"


def test_pictures_are_small_and_drawn_by_a_command_on_their_page() -> None:
    pictures = sorted((GUIDE / "pictures").iterdir())
    sizes = [path.stat().st_size for path in pictures]
    assert max(sizes) < 80_000 and sum(sizes) < 500_000, dict(zip(pictures, sizes, strict=True))
    for path in pictures:
        pages = [text for each in PAGES.values() if f"pictures/{path.name}" in (text := each.read_text())]
        assert pages, f"{path.name} is on no page"
        for text in pages:
            assert re.search(rf"^fastgan .*\b{path.name}\b", text, re.M), f"no command on the page makes {path.name}"


def test_pages_are_linked_from_the_first() -> None:
    first = PAGES["README"].read_text()
    assert all(f"({page}.md)" in first for page in PAGES if page not in OUTSIDE)


def claims(blocks: list[Block]) -> dict[int, list[str]]:
    """The lines that show each claim: those from its comment to the next one or the end of its block."""
    found: dict[int, list[str]] = {}
    for block in blocks:
        number = None
        for line in block.text.splitlines():
            if match := re.match(r"# claim (\d+): \S", line):
                number = int(match[1])
                assert number not in found, f"{block.name}: claim {number} twice"
                found[number] = []
            elif number is not None and line.strip() and not line.startswith("#"):
                found[number].append(line)
    return found


def test_each_of_the_54_claims_is_shown_once() -> None:
    found = claims([block for block in BLOCKS if block.page == "10-claims"])
    assert list(found) == list(range(1, 55)) and all(found.values()), [n for n, lines in found.items() if not lines]


def test_a_claim_that_is_twice_there_or_shown_by_nothing_is_noticed() -> None:
    blocks = [Block("page", 0, 1, "python", "# claim 1: a\nx\n# claim 2: b\n# why\n")]
    assert claims(blocks) == {1: ["x"], 2: []}
    with pytest.raises(AssertionError, match="claim 1 twice"):
        claims([*blocks, *blocks])


# ---------------------------------------------------------------- the test itself can fail


@pytest.mark.parametrize(
    ("value", "comment"),
    [(0.1423, "0.15"), ([1.0, 2.0], "1.0"), (3, "4"), (math.inf, "1.0"), (1e-9, "2e-9"), (False, "True")],
)
def test_a_wrong_number_in_a_comment_is_noticed(value: Any, comment: str) -> None:
    with pytest.raises(AssertionError):
        check_comment(value, comment, "here")


@pytest.mark.parametrize(
    ("value", "comment"),
    [(0.14234, "0.1423"), ((0.3448, 0.9091), "(0.345, 0.91)"), (math.inf, "inf"), (2.0612e-9, "2.06e-9"), (7, "say 8")],
)
def test_a_right_one_passes(value: Any, comment: str) -> None:
    check_comment(value, comment, "here")


def test_a_command_that_fails_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError):
        run_command("fastgan plot nothing-of-the-kind")
    with pytest.raises(AssertionError):
        run_command("rm -r somewhere")
