"""Which backend runs each operation, and why: the compiled module and its CUDA part."""

from __future__ import annotations

import functools
import importlib
import os
import platform
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from fastgan import _deprecation

# operation -> device -> dtypes the native core takes
_ALL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_REAL = (torch.float32, torch.float64)
OPERATIONS: dict[str, dict[str, tuple[torch.dtype, ...]]] = {
    "loss": {"cpu": _ALL, "cuda": _ALL},
    "mlp": {"cpu": _REAL, "cuda": _ALL},
    "dropout": {"cpu": _REAL, "cuda": _ALL},
    "random": {"cpu": _REAL, "cuda": _REAL},
}
# pip shows the message of that time only with -v.
_NOT_INSTALLED = (
    "fastgan was installed without its compiled core, which needs g++ 11 or clang 14 or newer; "
    "pip install -v says why it was not built"
)


def _load() -> tuple[ModuleType | None, str]:
    if os.environ.get("FASTGAN_DISABLE_NATIVE", "0") not in ("", "0"):
        return None, "FASTGAN_DISABLE_NATIVE is set"
    try:
        module = importlib.import_module("fastgan._native")
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "fastgan._native":
            return None, _NOT_INSTALLED
        return None, f"the compiled module does not load ({error})"
    try:
        module.build_info()  # chooses the instruction set
    except ValueError as error:  # FASTGAN_ISA has none of this processor's; the reference would be no answer to that
        raise ImportError(str(error)) from None
    return module, ""


_loaded, _why_not_loaded = _load()
if TYPE_CHECKING:  # the stub has its types; `why_not` says when it is None
    from fastgan import _native as native
else:
    native = _loaded


@functools.cache
def instruction_set() -> str:
    """The instruction set of the compiled core on this processor: "v2", "v3" (AVX2) or "v4" (AVX-512) on x86; or ""."""
    return "" if native is None else str(native.build_info()["instruction_set"])


def _probe_cuda() -> str:
    if native is None:
        return _why_not_loaded
    if not native.build_info()["cuda"]:
        return "fastgan was built without CUDA (nvcc was not found, or FASTGAN_CUDA=OFF)"
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    problem = native.cuda_problem()
    return f"the CUDA kernels do not run on this device ({problem})" if problem else ""


_cuda: str | None = None  # what the probe said; None: not asked yet


def cuda_reason() -> str | None:
    """Why the CUDA half of the native core cannot run here; None if it can. Probes the driver once, on request."""
    global _cuda
    if _cuda is None:
        if torch.compiler.is_compiling():  # a probe would break the graph; if the kernels cannot run, they will say so
            return None
        _cuda = _probe_cuda()
    return _cuda or None


def why_not(operation: str, device: str, dtype: torch.dtype) -> str | None:
    """The reason why `operation` cannot run natively on tensors of this device and dtype; None if it can."""
    if native is None:
        return _why_not_loaded
    dtypes = OPERATIONS[operation].get(device)
    if dtypes is None:
        return f"the native core has no {device} kernel for it"
    if dtype not in dtypes:
        names = ", ".join(str(d).removeprefix("torch.") for d in dtypes)
        return f"its native kernel takes {names}, not {str(dtype).removeprefix('torch.')}"
    return cuda_reason() if device == "cuda" else None


def backend_info() -> dict[str, Any]:
    """Versions, instruction sets, the CUDA build and device, and which backend runs each operation, and why.

    Returns:
        dict: plain strings, numbers and nested dicts; `fastgan info` prints it.
    """
    from fastgan import __version__

    info: dict[str, Any] = {
        "fastgan": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "native": native.build_info() | native.bf16_products() if native else f"not loaded: {_why_not_loaded}",
        "cuda": cuda_reason() or torch.cuda.get_device_name(),
    }
    backends = {}
    for operation in OPERATIONS:
        for device in ("cpu", "cuda"):
            reason = why_not(operation, device, torch.float32)
            backends[f"{operation} on {device}"] = f"reference: {reason}" if reason else "native"
    return _deprecation.Keys(info | {"backends": backends}, "backend_info", {"serves": "backends"})
