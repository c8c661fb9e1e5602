"""The speeds that fastgan should reach, each written once: by workload and by family of processors.

A target is a least ratio. Its name says to what:
    the name of a baseline: times as fast as that baseline, in float32
    "peak": share of the FMA peak
    "bf16 to fp32", "bf16 to eager": fastgan in bf16, times as fast as fastgan or eager PyTorch in float32
    "bf16 to torch": fastgan in bf16, times as fast as the fastest way in which PyTorch multiplies in bf16
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgan.apps.bench.workloads import WORKLOADS, Workload

Least = Mapping[str, float]

# On every processor, float32.
BASELINES: dict[str, Least] = {
    "tiny": {"eager": 100, "jax": 2.5},
    "toy-32": {"eager": 9, "jax": 1.4},
    "toy-128": {"eager": 3.6},
    "mnist-256": {"eager": 1.7},
    "mnist-1024": {"eager": 1.8},
    "mnist-1200": {"eager": 1.5},
    "wide-2048": {"eager": 1.2},
    "mnist-late": {"eager": 3},
    "original": {"eager": 1.5},
    "ring-2t": {"jax": 2.5},
    "digits-2t": {"jax": 1.8},
    "mnist-1200-2t": {"jax": 1.4},
}
ONE_THREAD: Least = {"fused-adam": 1.1, "jax": 1.1}  # of every workload of one thread without another one above

# Maker of the processor, as its model name has it -> share of the FMA peak.
OF_PEAK = ("mnist-256", "mnist-1024", "mnist-1200", "wide-2048", "original")
PEAK = {"AMD": 0.80, "Intel": 0.72}
PEAK_OF_BLOCKS = {"AMD": 0.85}  # where the batch is a multiple of BLOCK rows
PEAK_OF: dict[tuple[str, str], float] = {("Intel", "wide-2048"): 0.80}
BLOCK = 16

# How fastgan multiplies in bf16 -> of every workload of one thread, and of single ones.
NEVER_SLOWER: Least = {"bf16 to fp32": 1.0}
BF16: dict[str, Least] = {"AMX": {"bf16 to torch": 2.5}, "AVX512-BF16": {"bf16 to eager": 2.5}, "": {}}
BF16_OF: dict[tuple[str, str], Least] = {
    ("AMX", "mnist-256"): {"bf16 to fp32": 2.4},
    ("AMX", "mnist-1024"): {"bf16 to fp32": 2.8},
    ("AMX", "mnist-1200"): {"bf16 to fp32": 2.8},
    ("AMX", "original"): {"bf16 to fp32": 2.8},
    ("AMX", "wide-2048"): {"bf16 to fp32": 4, "bf16 to torch": 1.5},
}

# Of every workload of several threads.
TWO_THREADS = 1.8  # times as fast as one thread
BESIDE_A_BUSY_PROCESS = 1 / 1.1  # speed as a share of one thread's

POPULATION = 1.9  # of 64 members on two threads: times one GAN on one thread

# Row and precision on a GPU -> how many times each baseline's iterations a second fastgan should reach.
CUDA: dict[tuple[str, str], Least] = {
    ("toy-32", "fp32"): {"eager": 60.0, "graph": 6.0, "jax": 3.0},
    ("toy-32x132", "fp32"): {"eager": 2000.0, "vmap": 5.0},
    ("mnist-1024", "fp32"): {"eager": 20.0, "graph": 3.0},
    ("original", "fp32"): {"eager": 20.0, "graph": 3.0},
    **{(f"wide-{width}", "bf16"): {"autocast": 1.0, "compile-autocast": 1.0} for width in (1024, 2048, 4096)},
}
# At most 1 of each: what the host does, in which unit, and how that is said.
CUDA_HOST = (
    ("launches in 100", 1.0, "launches in 100 iterations"),
    ("waits in 100", 1.0, "waits of the host in 100 iterations"),
    ("host_s", 1e-6, "microseconds of the host in an iteration"),
)


def maker(machine: Mapping[str, Any]) -> str:
    """Who made the processor of a record's machine; "" if no target is for it alone."""
    model = str(machine["processor"]["model"])
    return next((name for name in PEAK if name in model), "")


def multiplies_by(machine: Mapping[str, Any]) -> str:
    """How fastgan multiplies large matrices in bf16 on a record's machine: "AMX", "AVX512-BF16", or "" if it cannot."""
    native = machine["fastgan"]["native"]
    has = native if isinstance(native, Mapping) else {}  # else the reason why there is none
    return "AMX" if has.get("amx") == "yes" else "AVX512-BF16" if has.get("avx512_bf16") == "yes" else ""


def of(name: str, machine: Mapping[str, Any]) -> dict[str, float]:
    """The targets of a workload on the CPU of a record's machine."""
    workload = WORKLOADS[name]
    own = BASELINES.get(name, {})
    if workload.threads > 1:
        return dict(own)
    found = {**own, **ONE_THREAD, **own}
    if name in OF_PEAK and (made_by := maker(machine)):
        found["peak"] = _peak(workload, made_by)
    by = multiplies_by(machine)
    return found | {**NEVER_SLOWER, **BF16[by], **BF16_OF.get((by, name), {})}


def _peak(workload: Workload, made_by: str) -> float:
    least = PEAK[made_by] if workload.batch % BLOCK else PEAK_OF_BLOCKS.get(made_by, PEAK[made_by])
    return PEAK_OF.get((made_by, workload.name), least)
