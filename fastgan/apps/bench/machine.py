"""Facts about the machine of a measurement: processor and its flags, versions, threads, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastgan import backend_info

FLAGS = ("avx", "avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "asimd", "sve", "bf16")
_TREE = Path(__file__).resolve().parents[3]
CHECKOUT = _TREE if (_TREE / "bench" / "results").is_dir() else None  # None for an installed package
ENVIRONMENT = ("OMP_", "XLA_", "MKL_", "KMP_", "GOMP_", "TORCH", "FASTGAN_", "LD_PRELOAD", "MALLOC_")


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; empty if there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def allowed_cpus() -> list[int]:
    """The processors this process may use, one of each physical core first."""
    if not hasattr(os, "sched_getaffinity"):
        return list(range(os.cpu_count() or 1))
    cpus = sorted(os.sched_getaffinity(0))
    siblings = {c: _read(f"/sys/devices/system/cpu/cpu{c}/topology/thread_siblings_list") or str(c) for c in cpus}
    first_of_core = {siblings[c]: c for c in reversed(cpus)}
    return sorted(cpus, key=lambda c: (first_of_core[siblings[c]] != c, c))


def load_average() -> list[float] | None:
    """Processes that ran or waited over the last 1, 5 and 15 minutes."""
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def processor() -> dict[str, Any]:
    """Model, count, flags of interest and caches."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    caches = {}
    for index in range(5):
        where = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        if size := _read(f"{where}/size"):
            caches[f"L{_read(f'{where}/level')} {_read(f'{where}/type')}"] = size
    return {
        "model": info.get("model name") or platform.processor() or platform.machine(),
        "family, model, stepping": [info.get(k) for k in ("cpu family", "model", "stepping")],
        "cpus": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "caches": caches,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def revision() -> str | None:
    """The commit of the checkout, marked where files differ from it; None outside of one."""
    if CHECKOUT is None:
        return None
    git = ["git", "-C", str(CHECKOUT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        if commit.returncode:
            return None
        # Results do not count: a run writes them, row by row.
        status = [*git, "status", "--porcelain", "--", ".", ":!bench/results"]
        changed = subprocess.run(status, capture_output=True, text=True).stdout.strip()
    except OSError:
        return None
    return commit.stdout.strip() + (" with changes" if changed else "")


def moment() -> dict[str, Any]:
    """What a row keeps of when it was measured: a file that was finished later has rows of several revisions."""
    return {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "revision": revision()}


def describe() -> dict[str, Any]:
    """Everything about this machine and its software that a figure depends on."""
    parallel = torch.__config__.parallel_info().splitlines()
    return {
        "processor": processor(),
        "system": f"{platform.system()} {platform.release()}",
        "fastgan": backend_info(),
        "revision": revision(),
        "numpy": np.__version__,
        "torch parallel": [line.strip() for line in parallel if re.search(r"OpenMP|MKL|backend", line)],
        "float32 matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "flush denormal": bool(torch.tensor([1e-40]) * 1.0 == 0),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(ENVIRONMENT) and "DIR" not in k},
    }


def device() -> dict[str, Any]:
    """The GPU that torch calls the current one."""
    found: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": found.name,
        "multiprocessors": found.multi_processor_count,
        "compute capability": f"{found.major}.{found.minor}",
        "memory": found.total_memory,
        "CUDA": torch.version.cuda,
    }


def name() -> str:
    """A short name for file names: the processor's and how many there are, never the host's."""
    model = re.sub(r"\(.*?\)|@.*|\bCPU\b|\bProcessor\b|\d+-Core", " ", processor()["model"])
    return file_name(model) + f"-{os.cpu_count()}cpu"


def file_name(text: str) -> str:
    """The text in small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
