"""What every test file shares: `--slow`, the devices, and settings put back after each test."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import switches
import torch
from command_line import TINY
from emulator import CSRC, SIMT, Builder, Emulator, Flavour, Library, begin_faults
from torch import Tensor

from fastgan import ops
from fastgan.apps.cli import main

# To run while editing: each part of the library has one file here, and all of them together take less than a minute.
QUICK = ("architecture", "fused", "init", "losses", "models", "nn", "ops", "penalties", "random")

# What takes longest begins first, so that no process is left alone with it at the end (xdist: --no-loadscope-reorder).
LONG = (
    "simt_train", "simt_layers", "fused", "simt_layers_faults", "oracles", "instruction_sets", "simt_loss",
    "random_plans", "graph", "bench", "simt_matrix", "guide", "architecture", "benchmark", "concurrency",
    "tabular_training", "cli", "baselines", "examples", "ops", "backend", "training_micro_batches", "typing",
    "packaging", "kills",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long tests too")


def pytest_configure() -> None:
    # A shell without job control starts what it puts into the background deaf to Ctrl-C, and children inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in QUICK:
            item.add_marker(pytest.mark.quick)
    if "PYTEST_XDIST_WORKER" in os.environ:
        rank = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: rank.get(item.path.stem.removeprefix("test_"), len(LONG)))
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def pytest_collection_finish() -> None:
    gc.freeze()  # torch's many objects, which each collection in a test would visit: a twentieth of all tests' time


def _cuda_is_there() -> bool:
    with warnings.catch_warnings():  # a CUDA build of torch warns where it finds no driver
        warnings.simplefilter("ignore")
        return torch.cuda.is_available()


@pytest.fixture(autouse=True)
def chains_are_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains too small for it to pay run natively as well: they are what most tests are about."""
    monkeypatch.setattr("fastgan.nn.segments.pays", lambda *_: True)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device there is; an absent GPU is a visible skip."""
    if request.param == "cuda" and not _cuda_is_there():
        pytest.skip("no CUDA device")
    return str(request.param)


@contextlib.contextmanager
def _nothing_waits() -> Iterator[None]:
    with warnings.catch_warnings():  # the first call warns of a prototype, after it has set the mode
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """fastgan's command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: str) -> tuple[int, str, str]:
        code = main(argv)
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 iterations that tests only read."""
    folder = tmp_path_factory.mktemp("ring") / "run"
    assert main(["train", "ring", *TINY, "--out", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def nothing_waits() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context in which whatever makes the host wait for a GPU is an error."""
    return _nothing_waits


@pytest.fixture
def _switches_reset() -> Iterator[None]:
    """torch's switches for the precision of float32 products are afterwards as torch begins."""
    if not switches.BOTH:
        pytest.skip("this torch has the older switch alone")
    yield
    switches.reset()


@pytest.fixture(scope="session")
def emulator_builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Compiles the CUDA sources for the emulator; all tests of a session share its folder, in all of its processes."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "simt"
    folder = Path(os.environ.get("FASTGAN_SIMT_FOLDER", shared))  # for sessions that follow each other
    folder.mkdir(parents=True, exist_ok=True)
    return Builder(folder)


@pytest.fixture(scope="session")
def library(emulator_builder: Builder) -> Library:
    """The kernels of the CUDA-graph engine in this process, for tests/graph_launcher.py."""
    stems = "heads", "loss_metrics", "mlp", "norm", "optimizer", "penalty", "random", "sampled"
    return emulator_builder.library([CSRC / "cuda" / f"{stem}.cu" for stem in stems])


@pytest.fixture(scope="session", params=["emulator", pytest.param("gpu", marks=pytest.mark.gpu)])
def machine(request: pytest.FixtureRequest, emulator_builder: Builder) -> Iterator[Emulator]:
    """All CUDA kernels behind one pipe: emulated, and on a GPU where there is one."""
    if request.param == "gpu" and not (_cuda_is_there() and shutil.which("nvcc")):
        pytest.skip("no CUDA device, or no nvcc")
    make = emulator_builder.for_gpu if request.param == "gpu" else lambda kernels: emulator_builder.begin(kernels)()
    server = make([*sorted((CSRC / "cuda").glob("*.cu")), *sorted(SIMT.glob("*.cu"))])
    yield server
    server.close()


@pytest.fixture(scope="module")
def faulty(request: pytest.FixtureRequest, emulator_builder: Builder) -> dict[str, Callable[[], Emulator]]:
    """The faults of the module, built: FAULTS, by name file, the old text, the new text, flavour.

    A file is compiled itself, if the module has no SOURCE that includes it.
    """
    source = getattr(request.module, "SOURCE", None)
    builds: dict[tuple[str, Flavour], dict[str, tuple[str, str, str]]] = {}
    for name, (file, old, new, flavour, *_) in request.module.FAULTS.items():
        builds.setdefault((source or file, flavour), {})[name] = f"cuda/{file}", old, new
    begun = [begin_faults(emulator_builder, *build, faults) for build, faults in builds.items()]
    return {name: begin for build in begun for name, begin in build.items()}


@pytest.fixture(autouse=True)
def _settings_put_back() -> Iterator[None]:
    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    # Small tensors gain nothing from threads, and on a busy machine torch's barriers cost a scheduler's quantum each.
    # Tests of threads ask for them.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    # Set where a test changed it alone: the first call imports torch's compiler, two seconds of a processor.
    if torch.are_deterministic_algorithms_enabled() != deterministic:
        torch.use_deterministic_algorithms(deterministic)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of layers of each ops.mlp call."""
    seen: list[int] = []
    real = ops.mlp

    def spy(x: Tensor, weights: list[Tensor], *args: object, **kwargs: object) -> Tensor:
        seen.append(len(weights))
        return real(x, weights, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ops, "mlp", spy)
    yield seen
