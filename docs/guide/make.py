"""Draws the pictures of these pages by the commands on them: python docs/guide/make.py [PAGE ...]

A page's `sh` blocks run in an empty folder, from top to bottom. What they draw that the page shows is kept in
pictures/, made smaller and with few colours.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from PIL import Image

from fastgan.apps.cli import main

FOLDER = Path(__file__).resolve().parent
WIDTH, COLOURS = 1200, 64


def store(source: Path, target: Path) -> None:
    """A picture as it is committed."""
    with Image.open(source) as opened:
        image = opened.convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    few = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
    print(f"{target.relative_to(FOLDER.parent)}: {target.stat().st_size:,} bytes")


def draw(page: Path) -> None:
    """Run the commands of a page, and store the pictures that it shows."""
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"\(pictures/(\S+)\)", text)
    if not shown:
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
            for command in block.replace("\\\n", " ").splitlines():
                if (words := shlex.split(command, comments=True)) and main(words[1:]):
                    raise SystemExit(f"{page.name}: {command}")
        for name in shown:
            if Path(name).exists():
                store(Path(name), FOLDER / "pictures" / name)
            else:
                print(f"{name} is drawn by a command in a block of plain text: run it, then store(path, target)")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = sys.argv[1:] or [path.stem for path in sorted(FOLDER.glob("*.md"))]
    for stem in wanted:
        draw(FOLDER / f"{stem}.md")
