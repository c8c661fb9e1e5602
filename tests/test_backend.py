"""Which backend runs an operation, and why: with the compiled core, without it, and for an impossible request."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import fresh
import pytest
import torch
from cases import DTYPES, need

import fastgan
from fastgan import _backend, ops
from fastgan._backend import OPERATIONS, backend_info, why_not
from fastgan.ops import LayerSpec


def python(code: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    run = fresh.run(code, strict=True, **environment)
    assert not check or run.returncode == 0, run.stderr
    return run


def test_info_tells_versions_and_who_runs_what() -> None:
    info = backend_info()
    assert info["fastgan"] == fastgan.__version__ and info["torch"] == torch.__version__
    json.dumps(info)  # plain values only
    for operation in OPERATIONS:
        for device in ("cpu", "cuda"):
            backend_of = info["backends"][f"{operation} on {device}"]
            reason = why_not(operation, device, torch.float32)
            assert backend_of == ("native" if reason is None else f"reference: {reason}")
    if _backend.native is None:
        assert info["native"].startswith("not loaded: ")
    else:
        assert info["native"]["version"] == fastgan.__version__
        assert info["native"]["instruction_set"] in ("v2", "v3", "v4", "portable")


def test_reasons_are_sentences() -> None:
    for operation in OPERATIONS:
        for device in ("cpu", "cuda", "mps", "meta"):
            for dtype in (*DTYPES, torch.int64):
                reason = why_not(operation, device, dtype)
                assert reason is None or len(reason) > 10
        if _backend.native is not None:
            assert "kernel" in str(why_not(operation, "mps", torch.float32))
            assert "int64" in str(why_not(operation, "cpu", torch.int64))


WITHOUT = """
import sys
{before}
import torch, fastgan
from fastgan import ops, random
from fastgan.ops import LayerSpec
print(fastgan.backend_info()["native"])
print(fastgan.backend_info()["backends"]["loss on cpu"])
x = torch.randn(5, requires_grad=True)
fastgan.discriminator_loss(x, x).backward()
seed = torch.tensor(1)
y = ops.mlp(torch.randn(4, 3), [torch.randn(2, 3)], [None], [LayerSpec("relu", dropout=0.5)], dropout_seed=seed)
random.normal(5, seed=0, purpose=0), random.permutation(5, seed=0, epoch=0), ops.dropout(y, 0.5, torch.tensor(1))
for call in (
    lambda: fastgan.discriminator_loss(x, x, impl="native"),
    lambda: fastgan.generator_loss(x, reduction="none", impl="native"),
    lambda: ops.mlp(torch.ones(4, 3), [torch.ones(2, 3)], [None], [LayerSpec()], impl="native"),
    lambda: ops.dropout(x, 0.5, torch.tensor(1), impl="native"),
    lambda: random.uniform(3, seed=0, purpose=0, impl="native"),
):
    try:
        call()
        print("computed")
    except RuntimeError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("before", "environment", "reason"),
    [
        ("", {"FASTGAN_DISABLE_NATIVE": "1"}, "FASTGAN_DISABLE_NATIVE is set"),
        ("sys.modules['fastgan._native'] = None", {"FASTGAN_DISABLE_NATIVE": "0"}, "fastgan was installed without its"),
    ],
    ids=("switched off", "missing"),
)
def test_without_the_core_everything_runs_and_says_why(before: str, environment: dict[str, str], reason: str) -> None:
    run = python(WITHOUT.format(before=before), **environment)
    info, runs, *refused = run.stdout.splitlines()
    assert info.startswith(f"not loaded: {reason}")
    assert runs.startswith(f"reference: {reason}")
    assert len(refused) == 5
    for line, caller in zip(
        refused, ("discriminator_loss", "generator_loss", "mlp", "dropout", "random.uniform"), strict=True
    ):
        assert line.startswith(f"{caller}: impl='native' is not available: {reason}"), line
    assert not run.stderr  # nothing is printed about it


def test_another_instruction_set_can_be_requested() -> None:
    need("native", "loss")
    code = "import fastgan; a = fastgan.backend_info()['native']; print(a['instruction_set'], a['avx512_bf16'])"
    for isa in "v2" if platform.machine() == "x86_64" else "portable", "":
        found, bf16 = python(code, FASTGAN_ISA=isa).stdout.strip().split(" ", 1)
        assert found == (isa or backend_info()["native"]["instruction_set"])
        assert not isa or bf16 == "this instruction set's build has none"  # whatever the processor has


def test_an_instruction_set_that_is_not_there_is_refused() -> None:
    """A comparison of builds that silently ran another one would mislead."""
    need("native", "loss")
    says = "FASTGAN_ISA must be an instruction set that this processor has ("
    run = python("import fastgan", check=False, FASTGAN_ISA="no such set")
    assert run.returncode == 1
    said = run.stderr.strip().splitlines()[-1]
    assert said.startswith(f"ImportError: {says}") and said.endswith("), got 'no such set'")
    command = [sys.executable, "-m", "fastgan", "info"]
    refused = subprocess.run(command, env=os.environ | {"FASTGAN_ISA": "no such set"}, capture_output=True, text=True)
    assert refused.returncode == 2 and refused.stdout == "" and refused.stderr.count("\n") == 1
    assert refused.stderr.startswith(f"fastgan: {says}") and refused.stderr.endswith("), got 'no such set'\n")


def test_auto_falls_back_and_native_does_not() -> None:
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    weights = [torch.randn(2, 4, dtype=torch.bfloat16)]
    assert ops.mlp(x, weights, [None], [LayerSpec()]).dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="mlp: impl='native' is not available: "):
        ops.mlp(x, weights, [None], [LayerSpec()], impl="native")
    meta = torch.empty(3, device="meta")
    assert fastgan.discriminator_loss(meta, meta).device.type == "meta"
    assert ops.mlp(meta, [torch.empty(2, 3, device="meta")], [None], [LayerSpec("relu")]).shape == (2,)
    with pytest.raises(RuntimeError, match="discriminator_loss: impl='native' is not available: "):
        fastgan.discriminator_loss(meta, meta, impl="native")


def test_the_reference_is_what_it_says() -> None:
    """An explicit 'reference' never reaches the kernels."""
    code = """
import torch, fastgan
from fastgan import _kernels, ops, random
from fastgan.ops import LayerSpec
_kernels.native = None  # any use raises
x = torch.randn(5, requires_grad=True)
fastgan.discriminator_loss(x, x, impl="reference").backward()
fastgan.generator_loss(x, reduction="none", impl="reference").sum().backward()
ops.mlp(torch.ones(4, 3), [torch.ones(2, 3)], [None], [LayerSpec("relu")], impl="reference")
ops.dropout(x, 0.5, torch.tensor(1), impl="reference").sum().backward()
random.normal(3, seed=0, purpose=0, impl="reference")
"""
    assert not python(code).stderr
