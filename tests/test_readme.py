"""The README: its commands and its code run, with a hundredth of the iterations."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from fastgan.apps import baselines
from fastgan.apps.cli import compare, main

README = Path(__file__).parent.parent / "README.md"
if not README.is_file():
    pytest.skip("an installed package has no README beside it", allow_module_level=True)
for library in ("matplotlib", "sklearn", "PIL"):
    pytest.importorskip(library, reason="the README draws pictures and uses the digits")

_BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
# What has tests of its own, or needs what a test must not: a minute, a network, a second process, files.
_ELSEWHERE = ("make", "pip", "torchrun", "fastgan bench", "fastgan reproduce", "fastgan train mnist")
COMMANDS = [
    line.partition("  #")[0]
    for language, text in _BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line and not line.startswith(_ELSEWHERE)
]
PYTHON = [text for language, text in _BLOCKS if language == "python"]


def test_M80_every_command_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert {shlex.split(command)[1] for command in COMMANDS} >= {"train", "sample", "plot", "info"}
    short = functools.partial(baselines.variational_autoencoder, steps=5)
    monkeypatch.setattr(baselines, "variational_autoencoder", short)
    monkeypatch.setattr(compare, "_SAMPLES", 200)
    for command in COMMANDS:
        words = shlex.split(command)
        assert words[0] == "fastgan", command
        if words[1] == "train":
            words += ["--steps", "5", "--batch-size", "8", "--rows", "200", "--width", "8", "--quiet"]
        if words[1] == "compare":
            words += ["--steps", "5", "--rows", "200", "--quiet"]
        if "--seeds" in words:
            words[words.index("--seeds") + 1] = "0:2"
        assert main(words[1:]) == 0, (command, capsys.readouterr().err)


def test_M80_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, from the first block on: nothing is there but what the blocks make."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for text in PYTHON:
        short = text.replace("steps=2000", "steps=20").replace("range(8)", "range(2)")
        exec(compile(short, "README.md", "exec"), names)
    assert names["images"].shape == (16, 64) and names["loss_d"].ndim == 0
    assert names["result"].step == 20 and names["many"].mean["d_fake"].shape == (2, 20)
