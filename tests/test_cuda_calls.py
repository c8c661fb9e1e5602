"""The way from tensors to the CUDA entries of the core, as far as it goes without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cases import MLPS, MlpCase, name_of
from torch import Tensor

from fastgan import _cuda, _kernels
from fastgan._backend import native
from fastgan.ops import LayerSpec

STREAM = 0
SMALL = MlpCase("small", (3, 4, 2), (LayerSpec("gelu", dropout=0.5), LayerSpec(pieces=2)), input_dropout=0.2)


class OnCuda(Tensor):
    """A CPU tensor that says it is on CUDA."""

    is_cuda = True


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.device]]:
    """CPU tensors go where CUDA's would; the devices that were made current."""
    guarded: list[torch.device] = []

    @contextlib.contextmanager
    def device(which: torch.device) -> Iterator[None]:
        guarded.append(which)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
    yield guarded


def forward(case: MlpCase, small: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[_cuda.Shape, list[Any], Tensor]:
    monkeypatch.setattr(_cuda, "_has_tensor_cores", lambda device: small)
    x, weights, biases, _ = case.make(5, dtype=torch.float32)
    shape = _cuda.Shape(case.sizes[0], tuple(case.sizes[1:]), case.layers, case.input_dropout)
    return shape, [x, [*weights, *biases]], torch.zeros(shape.work_size(5, x.dtype))


def entries() -> dict[str, Callable[[pytest.MonkeyPatch], object]]:
    """A call of each entry by way of the function users' tensors come through."""
    x = torch.ones(4, 3)
    layer = LayerSpec("tanh")

    def network(small: bool, backward: bool) -> Callable[[pytest.MonkeyPatch], object]:
        def call(patch: pytest.MonkeyPatch) -> object:
            shape, (x, params), work = forward(SMALL, small, patch)
            if not backward:
                return _cuda.mlp_forward(shape, x, params, 1, work)
            return _cuda.mlp_backward(shape, x, params, work, torch.ones(5, 2), 1, [True] * 5)

        return call

    logits = x.as_subclass(OnCuda)
    return {
        "pair_loss": lambda patch: _kernels.pair_loss(logits, logits, (0, 1), (0.0, 0.0), True, True, True),
        "scale": lambda patch: _cuda.scale(x, torch.ones(())),
        "random": lambda patch: _cuda.random(x, True, 1, 2, 3, 4, 5),
        "dropout": lambda patch: _cuda.dropout(x, x, 0.5, 1, 2),
        "layer_forward": lambda patch: _cuda.activate(layer, x, 1, 2),
        "layer_backward": lambda patch: _cuda.activate_backward(layer, x, x, 1, 2),
        "layer_backward_twice": lambda patch: _cuda.activate_backward(layer, x, x, 1, 2, x),
        "small_mlp_forward": network(True, False),
        "small_mlp_backward": network(True, True),
        "mlp_forward": network(False, False),
        "mlp_backward": network(False, True),
    }


@pytest.mark.skipif(native is None, reason="no compiled core")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU would follow these addresses")
@pytest.mark.parametrize("entry", entries())
def test_R39_without_a_device_each_entry_says_so(
    entry: str, no_gpu: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="CUDA says: |fastgan was built without CUDA"):
        entries()[entry](monkeypatch)
    assert no_gpu[0] == torch.device("cpu")


def test_addresses_and_the_current_stream_reach_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is the one that is current on the tensor's device."""
    log: list[object] = []

    @contextlib.contextmanager
    def device(which: torch.device) -> Iterator[None]:
        log.append("enter")
        yield
        log.append("leave")

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: log.append("stream") or SimpleNamespace(cuda_stream=77))
    core = SimpleNamespace(cuda_scale=lambda *arguments: log.append(arguments))
    monkeypatch.setattr(_cuda, "native", core)
    x, factor = torch.ones(3), torch.ones(())
    _cuda.scale(x, factor)
    assert log == ["enter", "stream", (0, x.data_ptr(), 3, factor.data_ptr(), 77), "leave"]


@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_R24_nothing_in_a_network_asks_the_device(case: MlpCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value of a tensor is looked at on the way: what would wait for the device, or break a capture."""
    monkeypatch.setattr(_cuda, "launch", lambda *arguments: None)
    monkeypatch.setattr(_cuda, "native", SimpleNamespace(cuda_layer_partials=lambda rows, columns: 1))
    for ask in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(OnCuda, ask, lambda self, *rest, ask=ask: pytest.fail(f"{ask} waits for the device"))
    for small in (True, False):
        shape, (x, params), work = forward(case, small, monkeypatch)
        mine = [None if p is None else p.as_subclass(OnCuda) for p in params]
        x, work = x.as_subclass(OnCuda), work.as_subclass(OnCuda)
        y = _cuda.mlp_forward(shape, x, mine, 1, work)
        _cuda.mlp_backward(shape, x, mine, work, torch.ones_like(y), 1, [True] + [p is not None for p in mine])
    derivatives = (x, None)
    _kernels.scale(derivatives, torch.tensor(2.0).as_subclass(OnCuda))
