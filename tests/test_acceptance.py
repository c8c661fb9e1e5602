"""docs/acceptance.md says which test shows what was promised; it can be believed, because this file checks it.

`python tests/test_acceptance.py` writes the table anew from the names of the tests: a test of row M03 is called
test_M03_..., one of several rows test_M05_M15_....
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs" / "acceptance.md"
_ROW = re.compile(r"^\| (M\d\d) \| ([^|]+) \| (.+) \|$", re.M)

# What is promised, by row; the number that shows it is in the test. Rows without tests stay out of the table.
PROMISES = {
    "M01": "the value V(p, q, D): sums, densities on a grid, samples",
    "M02": "the optimal discriminator p / (p + q)",
    "M03": "theorem 1: V(G, D*) = -log 4 + 2 JSD",
    "M04": "its minimum -log 4 is reached only where p_g = p_data",
    "M05": "a trained D approaches D*, and estimates JSD",
    "M06": "the game in function space converges",
    "M07": "the outer loop, D at its optimum in each step",
    "M08": "minimax and non-saturating derivatives",
    "M09": "the gradients at D* are those of divergences",
    "M10": "the maximum-likelihood cost, without overflow",
    "M11": "noise-contrastive and self-contrastive estimation",
    "M12": "one Gaussian fitted to two by KL, reverse KL, JSD",
    "M13": "the bilinear game: at once, and in turns",
    "M14": "too many steps of G: warned of, and modes lost",
    "M15": "D overfits finite data, and the gap shows it",
    "M20": "joint tables: marginals, conditionals, entropies",
    "M21": "conditional expectation and Bayes' rule",
    "M22": "entropy, cross-entropy and KL of coins",
    "M23": "edges: infinite KL, bounds and symmetry of JSD",
    "M24": "maximum likelihood is the argmin of KL; mixtures by EM",
    "M25": "Parzen windows are kernel density estimation",
    "M26": "linear auto-encoder equals PCA",
    "M27": "a GAN beats independent pixels on the digits",
    "M30": "the ring map",
    "M31": "a network learns the ring map",
    "M32": "the costs and derivatives as a table and a picture",
    "M33": "the paper's figure 1 from a live run",
    "M34": "ring, grid and 1200-D mixture: distinct modes, ceilings",
    "M35": "noise priors and their moments",
    "M36": "nearest training rows; no copies",
    "M37": "interpolation: the ends are the samples to the bit",
    "M38": "the guide, every line of which runs",
    "M40": "the discriminator's loss within 2 ULP",
    "M41": "the generator's losses, and the blend of the original code",
    "M42": "non-saturating is cross-entropy with the label flipped",
    "M43": "losses of probabilities, finite or infinite by a flag",
    "M44": "one-sided label smoothing and its optimum",
    "M45": "sums of halves do not overflow",
    "M46": "one batch of m real and n made rows",
    "M50": "perceptrons equal nn.Sequential, at apex's sizes too",
    "M51": "maxout: lowest of the largest pieces, NaN passes",
    "M52": "dropout keeps its share, and replays its mask",
    "M53": "the output bias starts at the marginals",
    "M54": "initialisers and column norms of the original code",
    "M55": "transposed convolutions: the paper's, and DCGAN's",
    "M57": "conditional GAN: the mode of the label",
    "M58": "an inference network finds z",
    "M59": "semi-supervised: fewer errors from few labels",
    "M60": "Algorithm 1 exactly",
    "M61": "the original code's simultaneous update exactly",
    "M62": "both conventions of momentum",
    "M63": "schedules of rate and momentum",
    "M65": "virtual batch normalisation",
    "M66": "minibatch discrimination",
    "M67": "monitors are what their names say",
    "M68": "D sees as many real rows as made ones",
    "M69": "samples do not depend on how they are requested",
    "M70": "Parzen log-likelihood, exact and stable",
    "M71": "the paper's Parzen table",
    "M72": "mode coverage in both conventions",
    "M73": "PacGAN's table 1",
    "M74": "unrolled GANs differentiate through D's steps",
    "M75": "modes under three costs",
    "M76": "packing",
    "M77": "k-means beats real digits under Parzen windows",
    "M78": "distributions on points and lines",
    "M80": "the command line and the README run",
    "M81": "the same without the compiled core",
    "M82": "every floating type",
    "M83": "many seeds at once, bit-equal to solo runs",
    "M84": "autocast, compile, graphs",
    "M92": "convolutional pairs from the command line, with labels",
    "M93": "tricks of the literature, each as its formula",
    "M94": "pictures of a joint table and of the entropies of coins",
    "M95": "pictures of the game in function space and of the outer loop",
    "M96": "density ratio from a trained D, NCE of a Gaussian, a collapse",
    "M97": "codes and reconstructions of auto-encoders as pictures",
    "M98": "generated rows for a classifier of few labels",
    "M99": "image to image: edges to digits",
}


@functools.cache
def named_tests() -> dict[str, list[str]]:
    """Row -> file::test, as they are written, in the order of the files."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for row in re.findall(r"(?<=_)M\d\d(?=_)", node.name):
                    found.setdefault(row, []).append(f"{path.name}::{node.name}")
    return found


def table() -> str:
    """The page."""
    tests = named_tests()
    lines = []
    for row, promise in PROMISES.items():
        by_file: dict[str, list[str]] = {}
        for test in tests.get(row, []):
            file, _, name = test.partition("::")
            by_file.setdefault(file, []).append(name)
        shown = "<br>".join(f"{file}: {', '.join(f'`{name}`' for name in names)}" for file, names in by_file.items())
        if by_file:
            lines.append(f"| {row} | {promise} | {shown} |")
    return (
        "# What shows that it is so\n\n"
        "Each row was promised with a number; the tests hold it. `pytest -k M03` runs those of a row. Written by\n"
        "`python tests/test_acceptance.py`, and checked by the tests.\n\n"
        "| row | what | tests |\n|---|---|---|\n" + "\n".join(lines) + "\n"
    )


ROWS = _ROW.findall(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else []  # an installed package has none


@pytest.mark.parametrize(("row", "promise", "cell"), ROWS, ids=[row for row, _, _ in ROWS])
def test_what_the_table_names_exists(row: str, promise: str, cell: str) -> None:
    named = re.findall(r"`(\w+)`", cell)
    there = {test.partition("::")[2] for test in named_tests().get(row, [])}
    assert named and set(named) <= there, f"write the table anew (python {Path(__file__).name}), or bring back {named}"
    assert promise.strip() == PROMISES[row]


def test_every_row_with_a_test_has_its_promise() -> None:
    assert set(named_tests()) <= set(PROMISES)


@pytest.mark.skipif(not TABLE.is_file(), reason="an installed package has no docs folder")
def test_the_page_is_what_the_tests_write() -> None:
    assert len(ROWS) > 60, "the rows of the page are read"
    assert TABLE.read_text(encoding="utf-8") == table(), f"write it anew: python tests/{Path(__file__).name}"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
