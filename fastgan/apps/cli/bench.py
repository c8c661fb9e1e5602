"""fastgan bench: whole iterations of Algorithm 1 against PyTorch and JAX, on this machine's CPU or GPU."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastgan.apps.cli import output
from fastgan.apps.cli.arguments import Deprecated, natural, number

QUICK = ("tiny", "toy-32", "mnist-256")
QUICK_BASELINES = ("eager", "fused-adam", "jax")
QUICK_ON_CUDA = ("toy-32", "toy-32x132", "mnist-1024")
QUICK_CUDA_BASELINES = (*QUICK_BASELINES, "vmap", "autocast")
_MEASURED = ("lower_bounds", "population")  # beside the rows


def add(commands: Any) -> None:
    """The command and its flags."""
    command = commands.add_parser(
        "bench",
        help="how fast it is here, against PyTorch and JAX",
        description="Time whole iterations of Algorithm 1 against eager PyTorch, torch.compile and JAX, in one "
        "process, in turn. A side whose results depart from a float64 run has no time. Each row is written to the JSON "
        "as soon as it is finished; a picture comes last. On a GPU it also times many GANs at once, and measures lower "
        "bounds: launches, barriers, copies, matrix products, waits.",
        epilog="examples:\n  fastgan bench --quick                a look in about a minute\n"
        "  fastgan bench                        everything: an hour if idle\n"
        "  fastgan bench --workload toy-128 --baselines eager jax\n"
        "  fastgan bench --device cuda          everything on the GPU\n"
        "  fastgan bench --device cuda --workload toy-32 --precision fp32 tf32 bf16\n",
    )
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where all train (cpu)")
    command.add_argument("--quick", action="store_true", help="three workloads, no torch.compile, few short windows")
    command.add_argument("--workload", nargs="+", metavar="NAME", help="what to time; a wrong name lists them all")
    command.add_argument(
        "--baselines",
        nargs="*",
        metavar="NAME",
        help="some of eager, fused-adam, compile, jax, and for bf16 autocast, compile-autocast; on the CPU also "
        "matmul, compile-matmul (torch's products in bf16), on a GPU graph (compiled, as a CUDA graph), vmap (JAX, for "
        "many GANs)",
    )
    command.add_argument("--peers", dest="baselines", nargs="*", action=Deprecated, help=argparse.SUPPRESS)
    command.add_argument("--threads", nargs="+", type=natural, metavar="N", help="default: each workload's own")
    command.add_argument(
        "--precision",
        nargs="+",
        metavar="NAME",
        help="fp32, tf32, bf16, ieee: a row each (fp32, but bf16 where a workload is wide); GPU only",
    )
    command.add_argument("--windows", type=natural, metavar="N", help="timed windows a side (40; quick: 10)")
    command.add_argument("--window-ms", type=number, metavar="X", help="length of a window (100; quick: 40)")
    command.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: processor time, for rows of one thread on a machine that others use too (wall)",
    )
    command.add_argument("--setup-limit", type=number, metavar="S", default=300.0, help="seconds a side may compile")
    command.add_argument(
        "--row-limit", type=number, metavar="S", help="seconds a row may take in all (1800; on a GPU 900)"
    )
    command.add_argument(
        "--resume",
        action="store_true",
        help="keep the rows that the file of results has with all requested baselines, and measure the others",
    )
    command.add_argument("--out", type=Path, help="folder of the results (bench/results; quick: a temporary one)")
    command.add_argument("--machine", help="name of this machine in file names")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write.

    Returns:
        1 if a side or a row has no time because its check or its process failed, 130 if rows are missing.
    """
    if arguments.device == "cuda":
        return _bench_device(*_device_request(arguments), arguments.resume)
    return _bench(*_requests(arguments), arguments.resume)


def _requests(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], Any]:
    """The request of each thread count, and the common settings."""
    from fastgan.apps.bench import machine, measure, population
    from fastgan.apps.bench.workloads import WORKLOADS

    quick = arguments.quick
    names = arguments.workload or (QUICK if quick else (*WORKLOADS, population.NAME))
    baselines = (
        arguments.baselines if arguments.baselines is not None else QUICK_BASELINES if quick else measure.BASELINES
    )
    _check("--workload", names, (*WORKLOADS, population.NAME))
    _check("--baselines", baselines, measure.BASELINES)
    if arguments.precision:
        raise ValueError("--precision must go with --device cuda: on the CPU each row has fp32 and bf16")
    available = len(machine.allowed_cpus())
    if arguments.threads and max(arguments.threads) > available:
        raise ValueError(f"--threads must be at most {available}, the processors here, got {max(arguments.threads)}")
    settings = _settings(arguments, machine.name())
    own = {name: WORKLOADS[name].threads if name in WORKLOADS else population.THREADS for name in names}
    common = {
        "baselines": list(baselines),
        "setup_limit": arguments.setup_limit,
        "row_limit": arguments.row_limit or 1800.0,
        "settings": _how(settings),
    }
    requests = []
    for threads in arguments.threads or sorted({t for t in own.values() if t <= available}):
        rows = [n for n in names if own[n] == threads or (arguments.threads and n in WORKLOADS)]
        requests.append({"threads": threads, "rows": rows, **common})
    if skipped := sorted({t for t in own.values() if t > available and not arguments.threads}):
        print(f"workloads of {skipped[0]} threads are left out: {available} processor here", file=sys.stderr)
    return requests, dataclasses.replace(settings, threads=tuple(r["threads"] for r in requests))


def _check(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{flag} must be among {', '.join(known)}, got {name!r}")


def _settings(arguments: argparse.Namespace, machine: str) -> Any:
    from fastgan.apps.bench import harness

    quick = arguments.quick
    settings = harness.Settings(
        windows=arguments.windows or (10 if quick else 40),
        window_s=(arguments.window_ms or (40.0 if quick else 100.0)) / 1e3,
        warmup_s=0.1 if quick else 0.3,
        quick=quick,
        clock=arguments.clock,
        out=arguments.out or (Path(tempfile.gettempdir()) / "fastgan-bench" if quick else harness.RESULTS),
        machine=arguments.machine or machine,
    )
    if settings.windows < 2 or settings.window_s <= 0:
        raise ValueError("--windows must be at least 2 and --window-ms above 0")
    return settings


def _how(settings: Any) -> dict[str, Any]:
    return {k: getattr(settings, k) for k in ("windows", "window_s", "warmup_s", "seed", "quick", "clock")}


def _device_request(arguments: argparse.Namespace) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    """The request of the measuring process, the settings, and the GPU."""
    import torch

    from fastgan import _options, backend_info
    from fastgan.apps.bench import device, machine, measure

    quick = arguments.quick
    rest = [name for name in device.NAMES if name not in device.ORDER]
    names = arguments.workload or (QUICK_ON_CUDA if quick else (*device.ORDER, *rest))
    baselines = (
        arguments.baselines
        if arguments.baselines is not None
        else QUICK_CUDA_BASELINES
        if quick
        else measure.CUDA_BASELINES
    )
    _check("--workload", names, device.NAMES)
    _check("--baselines", baselines, measure.CUDA_BASELINES)
    _check("--precision", arguments.precision or (), _options.names(_options.Precision))
    if arguments.threads:
        raise ValueError("--threads must go with --device cpu")
    if not torch.cuda.is_available():
        raise ValueError("--device must be cpu here, got cuda: PyTorch sees no CUDA device")
    if (found := backend_info()["cuda"]) != torch.cuda.get_device_name():  # else the reason
        raise ValueError(f"--device must be cpu here, got cuda: {found}")
    gpu = machine.device()
    settings = _settings(arguments, machine.file_name(gpu["name"]))
    own = {name: ["bf16" if name.startswith("wide") else "fp32"] for name in names}
    request = {
        "device": "cuda",
        "rows": [(name, precision) for name in names for precision in arguments.precision or own[name]],
        "baselines": list(baselines),
        "setup_limit": arguments.setup_limit,
        "row_limit": arguments.row_limit or 900.0,
        "settings": _how(settings),
    }
    return request, settings, gpu


def _bench_device(request: dict[str, Any], settings: Any, gpu: dict[str, Any], resume: bool) -> int:
    """The rows of a GPU."""
    from fastgan.apps.bench import device, report

    taken = [
        f"median of {settings.windows} windows of {settings.window_s * 1e3:.0f} ms a side, in turn; "
        "each ends with a wait for the device, which counts",
        f"many GANs at once: {device.MOST_WINDOWS} windows at most, each the slope between a short call and a long one",
    ]
    written, ended = _measure([request], settings, {"how": taken, "device": gpu}, resume)
    if "lower_bounds" not in written.content:
        print("\n".join(f"no time: {why}" for why in written.failures), file=sys.stderr)
        return 1 if ended else 130
    print(f"lower bounds of {gpu['name']}, measured in this run")
    print("\n".join(f"  {line}" for line in report.bound_lines(written.content["lower_bounds"])))
    return _tell(written, taken, ended, len(request["rows"]), gpu["name"])


def _bench(requests: Sequence[dict[str, Any]], settings: Any, resume: bool) -> int:
    """The rows of the CPU."""
    taken = [f"median of {settings.windows} windows of {settings.window_s * 1e3:.0f} ms a side, in turn in one process"]
    written, ended = _measure(requests, settings, {"how": taken}, resume)
    return _tell(written, taken, ended, sum(len(r["rows"]) for r in requests))


def _measure(
    requests: Sequence[dict[str, Any]], settings: Any, content: dict[str, Any], resume: bool
) -> tuple[Any, bool]:
    """The report, written after each row, and whether it is complete (no Ctrl-C)."""
    from fastgan.apps.bench import report, results, worker

    written = results.Report("train", settings, "workloads")
    written.quick = "QUICK CHECK: a look, no measurement."
    if resume:
        written.resume(*_MEASURED)
    written.content |= {"unit": "seconds an iteration", **content}
    ended = False
    with _display(sum(len(r["rows"]) for r in requests)) as show, contextlib.suppress(KeyboardInterrupt):
        for request in requests:
            rows = [row for row in request["rows"] if not _has(written, _row(row, request), request["baselines"])]
            for found in _until_it_fails(worker.ask_rows(request | {"rows": rows})):
                written.content |= {key: found[key] for key in _MEASURED if key in found}
                written.refused += [found[key] for key in ("refused",) if key in found]
                if "record" in found:
                    written.add(found["record"], _place(written, _of_record(found["record"])))
                members = written.content.get("population")
                written.content["targets"] = report.verdicts(written.records, members, written.machine)
                if "progress" not in found:
                    written.save()
                show(found.get("progress"))
        ended = True
    return written, ended


def _row(row: Any, request: dict[str, Any]) -> tuple[str, int, str]:
    """Workload, threads and precision of a requested row."""
    return (row, request["threads"], "fp32") if isinstance(row, str) else (row[0], 1, row[1])


def _of_record(record: dict[str, Any]) -> tuple[str, int, str]:
    """The same of a record."""
    return record["workload"], record["threads"], record.get("precision", "fp32")


def _place(written: Any, row: tuple[str, int, str]) -> int | None:
    """The number of the record of a row; None if there is none yet."""
    return next((i for i, record in enumerate(written.records) if _of_record(record) == row), None)


def _has(written: Any, row: tuple[str, int, str], baselines: Sequence[str]) -> bool:
    """Whether the row is measured, and each of these baselines has a time there or a reason why it has none."""
    from fastgan.apps.bench import population

    if row[0] == population.NAME:
        return "population" in written.content
    if (place := _place(written, row)) is None:
        return False
    record = written.records[place]
    tried = {*record.get("sides", ()), *record["left out"], *record.get("wrong", ())}
    return not record.get("sides") or set(baselines) <= tried


def _tell(written: Any, taken: Sequence[str], ended: bool, rows: int, device: str = "") -> int:
    """Print the tables and write the files; the exit code."""
    from fastgan.apps.bench import report

    records = written.records
    notes = [*taken, written.revisions(), written.disturbances(), report.disturbed(records)]
    measured = [record for record in records if record.get("sides")]
    if measured:
        print("microseconds an iteration (median); NNx: how many times as fast fastgan is")
        print(report.tables(measured))
    failures = [f"no time: {why}" for why in written.failures]
    lines = [*report.lines(records, written.content.get("population"), written.machine), *failures, *notes]
    for line in lines:
        print(*textwrap.wrap(line, report.WIDTH, subsequent_indent="  "), sep="\n", end="\n" if line else "")
    written.write({}, _picture([r for r in measured if report.FASTGAN in r["sides"]], notes, device))
    if not ended:
        print(f"interrupted: {len(records) + len(written.refused)} of {rows} rows")
        return 130
    return 1 if written.failures else 0


def _until_it_fails(answers: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The answers; if the measuring process fails, the last answer has its error."""
    from fastgan.apps.bench import worker

    try:
        yield from answers
    except worker.WorkerFailed as failure:
        yield {"refused": failure.brief}


def _picture(records: Sequence[dict[str, Any]], notes: Sequence[str], device: str = "") -> Any:
    from fastgan.apps.bench import report

    with output.pictures():
        return report.picture(records, notes, device) if records else None
    return None


@contextlib.contextmanager
def _display(total: int) -> Iterator[Callable[[str | None], None]]:
    """A bar on a terminal, plain lines elsewhere; called with what is measured now, or with None after a workload."""
    if not sys.stderr.isatty():
        from fastgan.apps.bench import harness

        yield lambda what: None if what is None else harness.progress(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("[bold]measuring"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.description}"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda what: bar.advance(task) if what is None else bar.update(task, description=what)
