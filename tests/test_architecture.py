"""The project's rules: which module imports which, where formulas are written, what `import fastgan` costs."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fresh
import pytest
import strict_build
from cases import OPERATORS

import fastgan
from fastgan import _backend, evaluation, losses, nn, random, theory
from fastgan._backend import OPERATIONS

PACKAGE = Path(fastgan.__file__).parent
CSRC = PACKAGE.parent / "csrc"
# Imports run downwards only: a module may import from lower layers, and from its own subpackage.
LAYERS = {
    "_interrupt": -1,
    "_errors": -3,
    "_extras": -3,
    "_options": -3,
    "_ranks": -2,
    "_run_folder": -3,
    "_torch_settings": -2,
    "_probes": 9,
    "_results": -3,
    "_deprecation": -3,
    "_files": -2,
    "reference": -2,
    "_backend": -2,
    "_schema": -1,
    "_cuda": 0,
    "_kernels": 1,
    "_operators": 2,
    "ops": 3,
    "random": 4,
    "data": 5,
    "losses": 5,
    "nn": 6,
    "theory": 5,
    "models": 7,
    "training": 8,
    "evaluation": 8,
    "tabular": 9,
    "plots": 9,
    "apps": 10,
}
ROOT = ("__init__", "__main__")  # the public names, and the entry point
needs_sources = pytest.mark.skipif(not CSRC.is_dir(), reason="an installed package has no csrc folder")


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path, *, static: bool = False) -> Iterator[str]:
    """What a file imports at run time, inside functions too; blocks under TYPE_CHECKING only if `static`."""
    package = ["fastgan", *path.relative_to(PACKAGE).parts[:-1]] if path.is_relative_to(PACKAGE) else []

    def walk(tree: ast.AST) -> Iterator[str]:
        for node in ast.iter_child_nodes(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not static:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*above, *([node.module] if node.module else [])])
                yield from (f"{module}.{alias.name}" for alias in node.names)
            else:
                yield from walk(node)

    yield from walk(ast.parse(path.read_text()))


def layer_of(name: str) -> int | None:
    """The layer of `fastgan.x.y`; None for the root's own names."""
    parts = name.split(".")
    return LAYERS.get(parts[1]) if len(parts) > 1 else None


def test_every_module_has_a_layer() -> None:
    found = {dotted(path).split(".")[0] for path in modules()} - set(ROOT)
    assert found <= set(LAYERS), f"add {found - set(LAYERS)} to LAYERS"


@pytest.mark.parametrize("path", [p for p in modules() if dotted(p) not in ROOT], ids=dotted)
def test_imports_run_downwards(path: Path) -> None:
    own = dotted(path).split(".")[0]
    for name in imports(path):
        if name.split(".")[0] != "fastgan" or name.split(".")[1:2] == [own]:
            continue
        if name == "fastgan.__version__" or own == "apps" and name.removeprefix("fastgan.") in fastgan.__all__:
            continue
        layer = layer_of(name)
        assert layer is not None, f"{path.name} imports {name}: not a module of fastgan"
        assert layer < LAYERS[own], f"{path.name} (layer {LAYERS[own]}) imports {name} (layer {layer})"


def test_only_the_backend_loads_the_native_module() -> None:
    for path in modules():
        named = any("_native" in name for name in imports(path, static=True))
        written = any(
            isinstance(node, ast.Constant) and node.value == "fastgan._native"
            for node in ast.walk(ast.parse(path.read_text()))
        )
        assert not (named or written) or dotted(path) == "_backend", f"{path.name} loads the native module"


@pytest.mark.parametrize("name", ("reference", "theory"))
def test_the_oracles_know_nothing_of_native_code(name: str) -> None:
    paths = [p for p in modules() if dotted(p).split(".")[0] == name]
    assert paths, f"there is no fastgan.{name}"
    forbidden = {"_backend", "_kernels", "_operators", "ops"}
    for path in paths:
        for imported in imports(path):
            parts = imported.split(".")
            assert parts[0] != "fastgan" or parts[1] not in forbidden, f"{path.name} imports {imported}"


# What the applications and bench/ use beside the public names, by reason. The list may become shorter, but not by
# writing a fact again. Other top-level modules with an underscore than those of CORE are not in it: they are helpers of
# the whole distribution, which the applications are part of: errors that keep their parts, types of options, files
# written whole, a run folder's files, optional libraries, PyTorch's settings, ranks, limits of the hardware, Ctrl-C.
CORE = ("_backend", "_schema", "_cuda", "_kernels", "_operators", "_results", "_deprecation")
BESIDE_PUBLIC = {
    "soak, which runs the CPU's engine without the history of `train`": ("training.engines.cpu",),
    "the minibatches of a run": ("training.rows",),
    "the line of means that a display shows": ("training.display",),
    "numbers and labels among the columns of a table": ("tabular.columns",),
    "the options of each member of a population of tables": ("tabular.population",),
}  # fmt: skip


def names_used(path: Path) -> set[str]:
    """The full names that a file imports from fastgan, or reaches as attributes of what it imports."""
    known, found = {}, set(imports(path))
    nodes = list(ast.walk(ast.parse(path.read_text())))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.Attribute):
            first, _, rest = ast.unparse(node).partition(".")
            found.add(f"{known.get(first, first)}.{rest}")
    return {name for name in found if name.startswith("fastgan.")}


def inner_module(name: str) -> str | None:
    """The module behind a full name, such as "data.sources" of fastgan.data.sources.NAMES; None of public names."""
    parts, found = name.split(".")[1:], fastgan
    if parts[0] in ("apps", "training", "plots"):  # public, but no names of the top level
        parts = [] if parts[0] == "apps" else parts
    if not parts or parts[0].startswith("_"):
        return parts[0] if parts and parts[0] in CORE else None
    for place, part in enumerate(parts):
        top_level = ("training", "plots") if found is fastgan else ()
        if part not in (*getattr(found, "__all__", ()), *top_level, "__version__"):
            files = [PACKAGE.joinpath(*parts[: place + 1 + more]) for more in range(len(parts) - place)]
            modules = [file for file in files if file.is_dir() or file.with_suffix(".py").is_file()]
            if modules:
                return dotted(modules[-1])
            return ".".join(parts[:place]) if hasattr(found, part) else None  # else a variable of the module's name
        found = getattr(found, part)
        if not inspect.ismodule(found):
            return None
    return None


@needs_sources
def test_applications_use_public_names() -> None:
    files = (*(PACKAGE / "apps").rglob("*.py"), *(PACKAGE.parent / "bench").glob("*.py"))
    used = {inner_module(name) for path in files for name in names_used(path)} - {None}
    listed = {module for modules in BESIDE_PUBLIC.values() for module in modules}
    assert used == listed, f"not listed: {sorted(used - listed)}; no longer used: {sorted(listed - used)}"


@pytest.mark.parametrize(
    "text",
    [
        "from fastgan.data.sources import NAMES",
        "from fastgan.data import sources",
        "from fastgan import data\nprint(data.sources.NAMES)",
        "import fastgan\nprint(fastgan.data.sources.NAMES)",
        "import fastgan.data as d\nprint(d.sources.NAMES)",
    ],
)
def test_no_use_of_an_inner_module_is_overlooked(text: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(text)
    assert {inner_module(name) for name in names_used(file)} - {None} == {"data.sources"}
    file.write_text("from fastgan._backend import native")
    assert {inner_module(name) for name in names_used(file)} - {None} == {"_backend"}
    file.write_text("from fastgan import data, _errors\n_errors.Invalid\ndata.load\ndata = data.ring(3)\ndata.x")
    assert not {inner_module(name) for name in names_used(file)} - {None}


# The modules that may ask what the native core can compute. An operation is dispatched in ops.dispatch alone; the
# engines ask once, when they are made, for the words of their refusal, and dispatch nothing by it.
ASKERS = {"ops.dispatch": "dispatch", "training.engines.cpu": "refusal", "training.engines.cuda_graph": "refusal"}


def asks_why_not(text: str) -> bool:
    """Whether code names `_backend.why_not` in any way: imported, as an attribute, or by a string."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("backend"):
            if any(alias.name in ("why_not", "*") for alias in node.names):
                return True
        if isinstance(node, ast.Attribute) and node.attr == "why_not":
            return True
        if isinstance(node, ast.Constant) and node.value == "why_not":
            return True
    return False


def test_native_is_chosen_in_one_place() -> None:
    """`why_not` decides; only the dispatch asks it, and the engines that may have to refuse."""
    askers = {dotted(path) for path in modules() if asks_why_not(path.read_text())} - {"_backend"}
    assert askers == set(ASKERS), f"{askers ^ set(ASKERS)} choose a backend of their own, or no longer ask"
    for name, use in ASKERS.items():
        text = (PACKAGE / f"{name.replace('.', '/')}.py").read_text()
        asked = [
            node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute) and node.attr == "why_not"
        ]
        assert len(asked) <= 1, f"{name} asks more than once"
        if use == "refusal":
            line = next(i for i, line in enumerate(text.splitlines()) if ".why_not(" in line)
            assert "UnsupportedByEngine" in "".join(text.splitlines()[line : line + 2]), (
                f"{name} asks for more than a refusal"
            )


@pytest.mark.parametrize(
    "text",
    [
        "from fastgan._backend import why_not",
        "from fastgan._backend import why_not as reason",
        "from fastgan._backend import *",
        "from fastgan import _backend\n_backend.why_not('mlp', 'cpu', None)",
        "import fastgan\nask = fastgan._backend.why_not",
        "from fastgan import _backend as b\ngetattr(b, 'why_not')",
    ],
)
def test_no_way_of_asking_is_overlooked(text: str) -> None:
    assert asks_why_not(text)
    assert not asks_why_not("from fastgan._backend import native\nfrom fastgan.training.engines import cuda_engine")


PLAIN = ("CheckpointError", "UnsupportedByEngine")  # begin with a path, or with what the engine cannot run


def prefixed(text: str) -> Iterator[int]:
    """Lines that make an error whose operation is only in its text: ValueError("train: data must ...")."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).endswith("Error"):
            shown = ast.unparse(node.args[0]).removeprefix("f").strip("'\"")
            if re.match(r"(\{\w+\}|[A-Za-z_.]+): ", shown) and ast.unparse(node.func).split(".")[-1] not in PLAIN:
                yield node.lineno


def test_errors_keep_their_parts() -> None:
    """The command line spells an argument as a flag by `error.subject`; no code takes a sentence apart."""
    assert list(prefixed("raise ValueError(f'{caller}: {name} must be 1')\n\nraise TypeError('train: no')")) == [1, 3]
    own = {"_deprecation", "_operators", "nn.saved", "training.checkpoint"}  # not seen, or of a file
    found = {dotted(path): list(prefixed(path.read_text())) for path in modules()}
    wrong = {name: lines for name, lines in found.items() if lines and name not in own and name[:5] != "apps."}
    assert not wrong, f"make these with fastgan._errors.Invalid: {wrong}"


# ---------------------------------------------------------------- csrc


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def sources() -> list[Path]:
    return sorted(p for p in CSRC.rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh"))


FORMULA = re.compile(r"\b(exp2?f?|expm1f?|log(2|10)?f?|log1pf?|tanhf?|erfc?f?|powf?|sinf?|cosf?|__expf|__logf)\s*\(")


@needs_sources
def test_formulas_stand_in_two_files() -> None:
    assert len(sources()) >= 10
    for path in sources():
        found = FORMULA.search(without_comments(path.read_text()))
        if path.name in ("formulas.h", "philox.h"):
            continue
        assert not found, f"{path.name} computes {found.group()}...: that belongs into formulas.h"
    assert FORMULA.search("y = std::exp(x)") and FORMULA.search("erfc(x)")
    assert not FORMULA.search("explain(x) + catalog(y) + std::sqrt(z)")


@needs_sources
def test_the_core_knows_no_torch() -> None:
    for path in sources():
        for line in path.read_text().splitlines():
            if line.lstrip().startswith("#include"):
                assert not re.search(r"torch|ATen|c10|caffe", line), f"{path.name}: {line}"
                if path.name == "formulas.h":
                    assert line.strip() in ("#include <cmath>", '#include "schema.h"')
                if "pybind11" in line:
                    assert path.name.startswith("bindings")


@needs_sources
def test_the_core_adds_no_floats_atomically_and_has_no_fast_math() -> None:
    for path in [*sources(), CSRC.parent / "CMakeLists.txt"]:
        text = without_comments(path.read_text())
        assert not re.search(r"atomicAdd|ffast-math|use_fast_math|Ofast", text), path.name


@needs_sources
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_core_compiles_without_a_warning() -> None:
    sources = [str(path) for path in sorted(CSRC.glob("cpu/*.cpp")) if not strict_build.flags(path)]
    flags = ("-std=gnu++20", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-DFASTGAN_ISA=portable")
    if sources:  # that no build has compiled with warnings as errors
        found = subprocess.run(["g++", "-fsyntax-only", *flags, *sources], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr[:2000]


@needs_sources
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_the_benchmark_of_the_parts_compiles() -> None:
    flags = ("-std=gnu++20", "-Wall", "-Wextra", "-Wno-psabi", "-Werror", "-DFASTGAN_ISA=portable")
    source = CSRC.parent / "bench" / "parts.cpp"
    found = subprocess.run(["g++", "-fsyntax-only", *flags, str(source)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[:2000]


# ---------------------------------------------------------------- the face


def public() -> Iterator[tuple[str, object]]:
    for module in (fastgan, evaluation, losses, nn, random, theory):
        for name in getattr(module, "__all__", [n for n in vars(module) if n[0] != "_" and n.islower()]):
            found = getattr(module, name)
            if inspect.isfunction(found) or inspect.isclass(found):
                if found.__module__.startswith("fastgan"):
                    yield f"{module.__name__}.{name}", found


def referred_to(text: str) -> Iterator[tuple[object, str]]:
    """The public functions to which "arguments as `x`", "as for `x`" and "as in `x`" send a reader."""
    for name in re.findall(r"(?:as|for|as in) `(\w+)`", text):
        for module in (fastgan, evaluation, losses, nn, random, theory):
            if inspect.isfunction(getattr(module, name, None)):
                yield module, name
                break


@pytest.mark.parametrize(("name", "found"), dict(public()).items(), ids=dict(public()))
def test_public_names_are_explained(name: str, found: object) -> None:
    """One sentence first; a function of several arguments tells them, and what it returns or where it comes from."""
    text = inspect.getdoc(found)
    assert text, f"{name} has no docstring"
    assert text.split("\n\n")[0].rstrip().endswith((".", ":")), f"{name}: the first line is no sentence"
    if inspect.isfunction(found):
        parameters = inspect.signature(found).parameters
        if len(parameters) > 2:
            known = text + "".join(inspect.getdoc(getattr(module, other)) or "" for module, other in referred_to(text))
            told = [p for p in parameters if re.search(rf"\b{p}\b", known)]
            assert len(told) == len(parameters), f"{name} does not tell {set(parameters) - set(told)}"
            assert re.search(r"Returns:|Equivalent to|Raises:|Source:", known), f"{name}: what it gives is not said"


def test_all_is_what_there_is() -> None:
    for module in (fastgan, evaluation, nn, theory):
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"


def test_every_registered_operator_has_a_row_of_arguments() -> None:
    """What fastgan registers with torch is checked by opcheck on the rows of tests/cases.py: all of it and no more."""
    import torch

    from fastgan import _operators  # noqa: F401  # registers

    registered = {name.split("::")[1].split(".")[0] for name in torch._C._dispatch_get_all_op_names()
                  if name.startswith("fastgan::")}  # fmt: skip
    assert registered == set(OPERATORS)
    asked = {node.args[1].value for path in modules() for node in ast.walk(ast.parse(path.read_text()))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "natively"
             and isinstance(node.args[1], ast.Constant)}  # fmt: skip
    assert asked == set(OPERATIONS), "the dispatch asks for what the backend lists"


IMPORT = """
import sys
import warnings
warnings.simplefilter("error")
import fastgan
heavy = {"matplotlib", "pandas", "sklearn", "rich", "pyarrow", "PIL", "scipy", "torchvision", "tensorboard"}
print(sorted(heavy & set(sys.modules)))
import torch
print(torch.cuda.is_initialized(), torch.get_default_dtype(), torch.is_grad_enabled(), torch.initial_seed())
torch.manual_seed(3)
print(torch.rand(1).item())
"""


TRAINING = """
import sys, tempfile
import torch
import fastgan

def networks():
    g, d = (torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, n)) for n in (2, 1))
    return fastgan.GAN(g, d, latent_dim=2)

for optimizer in (fastgan.Adam(), fastgan.SGD(lr=0.1), fastgan.Momentum(lr=0.1), fastgan.RMSprop(lr=0.1)):
    options = {"optimizer": optimizer, "batch_size": 4, "engine": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        for steps in (2, 4):
            config = fastgan.TrainConfig(steps=steps, **options)
            fastgan.train(networks(), torch.randn(8, 2), config, run_dir=folder, resume=steps == 4)
print("torch._dynamo" in sys.modules)
torch.optim.Adam(networks().parameters()).state_dict()  # its own way, as before
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.skipif(_backend.native is None, reason="the eager engine steps optimisers of torch, which import it")
def test_a_training_imports_no_compiler() -> None:
    """`torch._dynamo` takes a second, which torch's optimisers would spend for the core."""
    run = fresh.run(TRAINING)
    assert run.stdout.split() == ["False", "True"], run.stderr


def test_import_is_light_and_changes_nothing() -> None:
    """No plotting, tables or terminal libraries; CUDA untouched; torch's settings and generator as they were."""
    run = fresh.run(IMPORT)
    assert run.returncode == 0, run.stderr
    heavy, state, number = run.stdout.splitlines()
    assert heavy == "[]"
    assert state.startswith("False torch.float32 True")
    bare = IMPORT.replace("import fastgan\n", "import torch\n")
    plain = fresh.run(bare)
    assert plain.stdout.splitlines()[2] == number
    assert not run.stderr
