"""What a type checker tells a user: right options pass, each misused one is flagged; the stub of the core is true."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastgan
from fastgan import _backend, _options, losses, reference

PACKAGE = Path(fastgan.__file__).parent
SCRIPTS = Path(__file__).parent / "type_checks"
RIGHT, WRONG = SCRIPTS / "right.py", SCRIPTS / "wrong.py"


def misused() -> set[int]:
    return {number for number, line in enumerate(WRONG.read_text().splitlines(), 1) if line.endswith("# wrong")}


def mypy() -> dict[str, set[int]]:
    """Lines with an error by file name."""
    pytest.importorskip("mypy")
    flags = ("--strict", "--follow-imports=silent", "--no-error-summary", "--no-incremental", "--config-file=")
    # What fastgan calls in other packages is not the user's concern, and reading torch takes half a minute.
    environment = os.environ | {"MYPYPATH": str(PACKAGE.parent)}
    command = (sys.executable, "-m", "mypy", *flags, str(RIGHT), str(WRONG))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=SCRIPTS)
    assert not done.stderr, done.stderr
    found = re.findall(r"^(\w+\.py):(\d+): error", done.stdout, re.M)
    return {file.name: {int(line) for name, line in found if name == file.name} for file in (RIGHT, WRONG)}


def pyright(tmp_path: Path) -> dict[str, set[int]]:
    if shutil.which("pyright", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("pip install pyright")
    tool = (sys.executable, "-m", "pyright")
    if subprocess.run([*tool, "--version"], capture_output=True).returncode:
        pytest.skip("pyright fetches itself by npm, which does not answer")
    settings = {"include": [os.path.relpath(SCRIPTS, tmp_path)], "extraPaths": [str(PACKAGE.parent)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = (*tool, "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path))
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    errors = [d for d in report["generalDiagnostics"] if d["severity"] == "error"]
    return {
        file.name: {d["range"]["start"]["line"] + 1 for d in errors if Path(d["file"]).name == file.name}
        for file in (RIGHT, WRONG)
    }


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_type_checkers_accept_what_is_right_and_flag_every_misuse(tmp_path: Path, checker: str) -> None:
    found = mypy() if checker == "mypy" else pyright(tmp_path)
    assert found == {"right.py": set(), "wrong.py": misused()}


def test_every_option_of_the_scripts_is_used_right_and_wrong() -> None:
    """No option of the training config is forgotten by them."""
    for script in (RIGHT, WRONG):
        calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
        given = {word.arg for call in calls if ast.unparse(call.func).endswith("TrainConfig") for word in call.keywords}
        assert set(fastgan.TrainConfig.__dataclass_fields__) <= given, script.name


def test_options_are_what_the_tables_hold() -> None:
    assert set(_options.names(_options.DiscriminatorKind)) == set(losses.DISCRIMINATOR)
    assert set(_options.names(_options.GeneratorKind)) == set(losses.GENERATOR)
    assert _options.names(_options.ActivationName) == tuple(reference.ACTIVATIONS)
    from fastgan.theory import fits, objectives

    assert set(_options.names(_options.DivergenceKind)) == set(objectives.F_DIVERGENCES)
    assert set(_options.names(_options.FitKind)) == set(fits._KINDS)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file() and (PACKAGE / "_native.pyi").is_file()


# ---------------------------------------------------------------- the stub of the core


def stub() -> Iterator[tuple[str, int | None]]:
    """(name, number of parameters) of each function and method; None: any number, or no function."""
    tree = ast.parse((PACKAGE / "_native.pyi").read_text())

    def read(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, int | None]]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield node.name, None
                yield from read(node.body, f"{node.name}.")
            elif isinstance(node, ast.AnnAssign):
                yield ast.unparse(node.target), None
            elif isinstance(node, ast.FunctionDef):
                plain = not node.decorator_list and node.args.vararg is None
                yield prefix + node.name, len(node.args.posonlyargs + node.args.args) if plain else None

    return read(tree.body, "")


def core() -> Iterator[tuple[str, int | None]]:
    """The same of the module, from the signatures in pybind11's docstrings."""

    def parameters(found: object) -> int | None:
        signature = (found.__doc__ or "").partition("\n")[0]
        if not callable(found) or "(*args" in signature:
            return None
        return 0 if "()" in signature else len(re.findall(r"(?:\(|, )(?:self|arg\d+): ", signature))

    for name, found in vars(_backend.native).items():
        if name.startswith("__"):
            continue
        yield name, None if isinstance(found, type) else parameters(found)
        for method, inner in vars(found).items() if isinstance(found, type) else ():
            if method == "__init__" or not method.startswith("_"):
                yield f"{name}.{method}", parameters(inner)


@pytest.mark.skipif(_backend.why_not("loss", "cpu", __import__("torch").float32) is not None, reason="no native core")
def test_the_stub_of_the_core_is_true() -> None:
    assert dict(stub()) == dict(core())
