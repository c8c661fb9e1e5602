"""The process in which a row is measured: `python -m fastgan.apps.bench.worker REQUEST`.

Each row of the table has a process of its own, pinned to its processors from the beginning: XLA fixes its threads when
it is loaded, after a fault nothing more runs in a process, and work that never ends blocks it forever. All sides of a
row run interleaved in it. A process answers in JSON lines: progress, a GPU's lower bounds, records, or a refused row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastgan.apps.bench import device, harness, lower_bounds, machine, population, results
from fastgan.apps.bench.measure import LEFT_OUT, in_short, measure
from fastgan.apps.bench.workloads import WORKLOADS

# A single thread of XLA's beside Python's own: on one processor more would only take turns.
ONE_XLA_THREAD = "--xla_cpu_multi_thread_eigen=false"


class WorkerFailed(RuntimeError):
    """The process ended without an answer."""

    @property
    def brief(self) -> str:
        """How it ended and the last line of its output."""
        lines = str(self).strip().splitlines()
        return " ... ".join(line.strip()[-300:] for line in dict.fromkeys((lines[0], lines[-1])))


def serve(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """Run the requested measurements; one answer for each event."""
    if "device" in request:
        return serve_device(request, answer)
    threads = request["threads"]
    settings = harness.Settings(**{**request["settings"], "out": Path(), "threads": (threads,)})

    def say(what: str) -> None:
        answer({"progress": what})

    for name in request["rows"]:
        began = machine.moment()
        try:
            if name == population.NAME:
                answer({"population": began | population.measure(settings, say=say)})
                continue
            workload = dataclasses.replace(WORKLOADS[name], threads=threads)
            found = measure(workload, request["baselines"], settings, request["setup_limit"], say)
            answer({"record": began | found})
        except (*LEFT_OUT, harness.ResultsDiffer) as failure:
            answer({"refused": f"{name}: {in_short(failure)}"})


def serve_device(request: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """The same for a GPU: its lower bounds where they are not known, then row by row; one that fails has no time."""

    def say(what: str) -> None:
        answer({"progress": what})

    found: dict[str, Any] = request.get("lower_bounds", {})
    if not found:
        say("lower_bounds")
        for found in lower_bounds.measure(request["device"], **request.get("sizes", {})):
            answer({"lower_bounds": found})
    settings = harness.Settings(**{**request["settings"], "out": Path(), "threads": (1,)})
    for name, precision in request["rows"]:
        began = machine.moment()
        try:
            row = device.row(name, precision)
            asked = request["baselines"], settings, found, request["setup_limit"], say, request["device"]
            answer({"record": began | device.measure(row, *asked)})
        except Exception as failure:
            answer({"refused": f"{name}, {precision}: {in_short(failure)}"})


def ask_rows(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows, each from a fresh process that is ended after `row_limit` seconds; before them a GPU's lower bounds.

    Raises:
        WorkerFailed: no lower bound was measured, so nothing can be held against one.
    """
    known: dict[str, Any] = {}
    if "device" in request:
        try:
            for answer in ask(request | {"rows": []}, request["row_limit"]):
                known |= {key: answer[key] for key in ("lower_bounds",) if key in answer}
                yield answer
        except WorkerFailed as failure:
            if not known:
                raise
            yield {"refused": f"some lower bounds: {failure.brief}"}
    for row in request["rows"]:
        try:
            yield from ask(request | known | {"rows": [row]}, request["row_limit"])
        except WorkerFailed as failure:
            yield {"refused": f"{row if isinstance(row, str) else ', '.join(row)}: {failure.brief}"}


def ask(request: dict[str, Any], limit_s: float | None = None) -> Iterator[dict[str, Any]]:
    """The answers of a fresh process to a request, as they come.

    Args:
        request: as `serve` takes it.
        limit_s: seconds after which the process is ended; None: it may take its time.

    Raises:
        WorkerFailed: the process broke down or was ended; the end of its output is in the message.
    """
    command = [sys.executable, "-m", "fastgan.apps.bench.worker", json.dumps(request)]
    with (
        tempfile.TemporaryFile() as output,
        _held(machine.allowed_cpus()[: request.get("threads")], command, output) as process,
        _ended_after(process, limit_s) as late,
    ):
        try:
            assert process.stdout is not None  # a line without an end is what was cut off
            yield from (json.loads(line) for line in process.stdout if line.endswith(b"\n"))
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
        if process.wait() != 0:
            output.seek(0)
            how = f"was ended after {limit_s:g} s" if late.is_set() else f"ended with {process.returncode}"
            raise WorkerFailed(f"the measuring process {how}: {output.read()[-3000:].decode(errors='replace')}")


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[bytes], limit_s: float | None) -> Iterator[threading.Event]:
    """Kill the process when the time is up, and set the event: no signal reaches it while it waits for a kernel."""
    late = threading.Event()

    def end() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(limit_s or 0.0, end)
    if limit_s is not None:
        timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _held(cpus: Sequence[int], command: Sequence[str], said: Any) -> subprocess.Popen[bytes]:
    """Start a process that inherits this thread's processors: libraries look at them while they are loaded."""
    if not hasattr(os, "sched_setaffinity"):
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said)
    finally:
        os.sched_setaffinity(0, before)


def main(argv: Sequence[str]) -> int:
    """Answer the request on standard output, which no library may write to meanwhile."""
    request = json.loads(argv[0])
    if "device" in request:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the rest of the memory is PyTorch's
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"  # as all sides, also where JAX would find a GPU
    if request.get("threads") == 1:
        os.environ["XLA_FLAGS"] = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), ONE_XLA_THREAD]))
    with os.fdopen(os.dup(1), "w", buffering=1) as out, harness.cold_compiler():
        os.dup2(2, 1)
        serve(request, lambda found: print(json.dumps(results.plain(found)), file=out, flush=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
