"""Optimisers on CUDA under the emulator against those of torch."""

from __future__ import annotations

import pytest
import torch
from cases import name_of, need
from emulator import NEEDS, STREAM, Emulator
from torch import Tensor

from fastgan import _backend, _schema

pytestmark = NEEDS
SCHEDULES = 20
RULES = _schema.ENUMS.get("Rule", ())


def torch_step(rule: str, p: Tensor, grads: list[Tensor]) -> Tensor:
    """Where torch.optim takes a parameter (pylearn2's momentum: written out)."""
    p = p.clone()
    if rule == "momentum_pylearn2":
        velocity = torch.zeros_like(p)
        for g in grads:
            velocity = 0.9 * velocity - 0.05 * (g + 0.1 * p)
            p += velocity
        return p
    leaf = p.requires_grad_()
    optimizer: torch.optim.Optimizer
    if rule == "adam":
        optimizer = torch.optim.AdamW([leaf], lr=0.05, betas=(0.5, 0.999), eps=1e-8, weight_decay=0.1)
    elif rule == "rmsprop":
        optimizer = torch.optim.RMSprop([leaf], lr=0.05, alpha=0.999, momentum=0.9, weight_decay=0.1)
    else:
        optimizer = torch.optim.SGD([leaf], lr=0.05, momentum=0.9, weight_decay=0.1)
    for g in grads:
        leaf.grad = g
        optimizer.step()
    return leaf.detach()


def check_rule(
    machine: Emulator, rule: str, sizes: tuple[int, ...], dtype: torch.dtype, shift: int = 0, schedules: int = SCHEDULES
) -> None:
    generator = torch.Generator().manual_seed(3)

    def normal(n: int) -> Tensor:
        return torch.randn(n, generator=generator, dtype=torch.float64).to(dtype)

    need("native", "mlp")  # whose schema orders the plan
    start = [normal(n) for n in sizes]
    values = [p.clone() for p in start]
    states = [[torch.zeros(n, dtype=dtype) for n in sizes] for _ in range(2)]
    grads = [[normal(n) for n in sizes] for _ in range(3)]
    counter = torch.zeros(4, dtype=torch.int64)
    rate, momentum = (torch.tensor([x], dtype=torch.float64) for x in (0.05, 0.0 if rule == "adam" else 0.9))
    for step, grad in enumerate(grads):
        parameters: list[object] = []
        for p, s0, s1, g, n in zip(values, *states, grad, sizes, strict=True):
            parameters += [p, s0, s1 if rule in ("adam", "rmsprop") else None, g, n]
        counter[0] = step
        plan = dict.fromkeys(_schema.FIELDS["OptimizerPlan"], 0.0)
        plan |= {"rule": rule, "beta1": 0.5, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.1}
        plan["decoupled"] = rule == "adam"
        tables = rate, 1, momentum, 1
        head = _schema.DTYPES[dtype], *_schema.in_order("OptimizerPlan", plan), *tables, counter, 1, 0, 0
        machine.call("update", *head, len(sizes), *parameters, STREAM, schedules=schedules, shift=shift)
    for i, p in enumerate(values):
        want = torch_step(rule, start[i].double(), [g[i].double() for g in grads])
        tolerance = 1e-13 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(p.double(), want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
@pytest.mark.parametrize("rule", RULES)
def test_an_optimiser_steps_as_torch_does(rule: str, dtype: torch.dtype, machine: Emulator) -> None:
    for shift in (0, 1):
        check_rule(machine, rule, (1, 7, 4097, 0, 12), dtype, shift)


@pytest.mark.skipif(_backend.native is None, reason="the compiled core lists the plan's fields")
def test_more_parameters_than_a_launch_takes(machine: Emulator) -> None:
    check_rule(machine, "adam", (3,) * 64 + (0, 5, 2), torch.float32)
