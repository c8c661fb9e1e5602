"""PyTorch's side: the training loop as its users write it, and compiled as a whole."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fastgan.apps.bench.fastgan_side import change
from fastgan.apps.bench.products import bf16_products
from fastgan.apps.bench.workloads import BETAS, EPS, LEARNING_RATE, Draws, Workload, plain_network

T = TypeVar("T")
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
BCE = nn.BCEWithLogitsLoss()
WARM_UP = 3  # calls before a capture, because compiling and loading at the first use cannot be captured
ROUNDING = 2.0**-24  # of one step of a float32 sum; those of n random steps add up to sqrt(n) as much
CALIBRATION = 8  # iterations that are timed to choose the number for a timed call


class Torch:
    """One way to write the iteration: `build` makes it for a pair of networks.

    It runs on the device of the data. On the CPU a timed call is one iteration. On a GPU it is as many iterations as
    take about `seconds`, and one wait for all of them, because launches are asynchronous.

    Args:
        workload, data, build: what is trained, on what, and how.
        seconds: of a timed call.
        capture: replay the iteration as a CUDA graph where it is timed.
        seed: of the first weights.
    """

    def __init__(
        self,
        workload: Workload,
        data: Tensor,
        build: Callable[[nn.Module, nn.Module], Step],
        seconds: float = 0.0,
        capture: bool = False,
        seed: int = 0,
    ) -> None:
        self.workload, self.data, self.seconds, self.capture = workload, data, seconds, capture
        self.queues = data.device.type != "cpu"
        self.first = weights = workload.weights(seed)
        self.networks: dict[str, nn.Module] = {
            "generator": plain_network(workload.generator),
            "discriminator": plain_network(workload.discriminator),
        }
        for name, network in self.networks.items():
            network.load_state_dict(weights[name])
            network.to(data.device, data.dtype)
        self.step = build(self.networks["generator"], self.networks["discriminator"])

    @functools.cached_property
    def per_call(self) -> int:
        """Iterations of a timed call."""
        if not self.queues:
            return 1
        self._call(CALIBRATION)
        started = time.perf_counter()
        self._call(CALIBRATION)
        return max(1, round(self.seconds * CALIBRATION / (time.perf_counter() - started)))

    def run(self) -> None:
        """`per_call` iterations."""
        self._call(self.per_call)

    def _call(self, iterations: int) -> None:
        for _ in range(iterations):
            self._timed()
        if self.queues:
            wait_for(self.data.device)

    @functools.cached_property
    def _timed(self) -> Callable[[], object]:
        return captured(self._iterate) if self.capture else self._iterate

    def _iterate(self) -> None:
        """One iteration with minibatch and noise drawn as users draw them."""
        m, latent_dim, device = self.workload.batch, self.workload.latent_dim, self.data.device
        real = self.data[torch.randint(len(self.data), (m,), device=device)]
        self.step(real, torch.randn(m, latent_dim, device=device), torch.randn(m, latent_dim, device=device))

    def replay(self, draws: Draws) -> dict[str, Tensor]:
        """Run these iterations: their losses, and the state after them, from which timing continues.

        If a graph is timed, the first iterations warm up and the later ones are its replays.
        """
        inputs = [x.to(self.data) for x in (draws.real, draws.noise_d, draws.noise_g)]
        places = [torch.empty_like(x[0]) for x in inputs]  # the graph reads its batch here
        losses, step = [], functools.partial(self.step, *places)
        for i in range(len(draws)):
            if self.capture and i == WARM_UP:
                step = graph_of(step)  # type: ignore[assignment]
            for place, x in zip(places, inputs, strict=True):
                place.copy_(x[i])
            losses.append([loss.clone() for loss in step()])
        loss_d, loss_g = (torch.stack(column).cpu() for column in zip(*losses, strict=True))
        after = {name: network.state_dict() for name, network in self.networks.items()}
        return {"loss_d": loss_d, "loss_g": loss_g} | change(self.first, after)


def float64_run(workload: Workload, data: Tensor, draws: Draws, seed: int = 0) -> dict[str, Tensor]:
    """The reference that every side is compared with: the same iterations by the plain loop in float64."""
    return Torch(workload, data.double(), eager, seed=seed).replay(draws)


def disturbed_run(workload: Workload, data: Tensor, draws: Draws, seed: int = 0, number: int = 0) -> dict[str, Tensor]:
    """The float64 run with errors as large as those of float32 in the result of each layer's product.

    Its distance from the reference is what rounding alone may do to a run. If a unit's sum is within rounding of 0, its
    ReLU has either derivative; Adam's first steps then change sign where the gradient is small.

    Args:
        workload, data, draws, seed: as for the reference.
        number: seed of the errors.
    """
    with _Disturbed(number):
        return float64_run(workload, data, draws, seed)


class _Disturbed(TorchFunctionMode):
    """Adds random errors to the outputs of every linear map inside."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(number)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        y = func(*args, **(kwargs or {}))
        if func is not functional.linear:
            return y
        size = ROUNDING * math.sqrt(args[0].shape[-1]) * y.detach().square().mean().sqrt()
        return y + size * torch.randn(y.shape, generator=self.random, dtype=y.dtype).to(y.device)


def wait_for(device: torch.device) -> None:
    """Wait until all work queued on the device is done."""
    torch.cuda.synchronize(device)


def captured(call: Callable[[], T]) -> Callable[[], T]:
    """The same call as a CUDA graph; a replay overwrites the results, with new random numbers."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    return graph_of(call)


def graph_of(call: Callable[[], T]) -> Callable[[], T]:
    """The CUDA graph of a call that has warmed up; capturing does not execute it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # JAX has its own threads in this process
        out = call()

    def replay() -> T:
        graph.replay()
        return out

    return replay


def eager(generator: nn.Module, discriminator: nn.Module, *, fused: bool | None = None, autocast: bool = False) -> Step:
    """The step of every tutorial. fused: the option of `torch.optim.Adam`; autocast: to bf16, by `torch.autocast`."""
    place = next(generator.parameters()).device.type
    forward = functools.partial(torch.autocast, place, torch.bfloat16) if autocast else contextlib.nullcontext
    adam = functools.partial(torch.optim.Adam, lr=LEARNING_RATE, betas=BETAS, eps=EPS, fused=fused)
    optimizer_g, optimizer_d = adam(generator.parameters()), adam(discriminator.parameters())

    def step(real: Tensor, noise_d: Tensor, noise_g: Tensor) -> tuple[Tensor, Tensor]:
        optimizer_d.zero_grad()
        with forward():
            real_logits = discriminator(real)
            fake_logits = discriminator(generator(noise_d).detach())
            loss_d = BCE(real_logits, torch.ones_like(real_logits)) + BCE(fake_logits, torch.zeros_like(fake_logits))
        loss_d.backward()
        optimizer_d.step()

        optimizer_g.zero_grad()
        with forward():
            fake_logits = discriminator(generator(noise_g))
            loss_g = BCE(fake_logits, torch.ones_like(fake_logits))
        loss_g.backward()
        optimizer_g.step()
        return loss_d.detach(), loss_g.detach()

    return step


def eager_fused_adam(generator: nn.Module, discriminator: nn.Module) -> Step:
    """`eager` with Adam's fused update."""
    return eager(generator, discriminator, fused=True)


def eager_autocast(generator: nn.Module, discriminator: nn.Module) -> Step:
    """`eager` with products in bf16, weights and their updates in float32."""
    return eager(generator, discriminator, autocast=True)


def eager_matmul(generator: nn.Module, discriminator: nn.Module) -> Step:
    """`eager` after one line: `torch.backends.mkldnn.matmul.fp32_precision = "bf16"`."""
    return _with_bf16_products(eager(generator, discriminator))


def compiled_matmul(generator: nn.Module, discriminator: nn.Module) -> Step:
    """`eager_matmul` with the whole step compiled."""
    return _with_bf16_products(compiled(generator, discriminator))


def _with_bf16_products(step: Step) -> Step:
    def inside(*batch: Tensor) -> tuple[Tensor, Tensor]:
        with bf16_products():
            return step(*batch)

    return inside


def compiled_autocast(generator: nn.Module, discriminator: nn.Module) -> Step:
    """The step under autocast with both networks compiled, as users of large networks do."""
    for network in (generator, discriminator):
        network.compile(dynamic=False)
    return eager(generator, discriminator, fused=True, autocast=True)


def compiled(generator: nn.Module, discriminator: nn.Module) -> Step:
    """torch.compile at its best: both steps, gradients and Adam in one graph, without redundant work.

    The loop above breaks into six graphs at `backward` and `zero_grad`, and is then no faster than eager.
    """
    optimizer_g, optimizer_d = CompiledAdam(generator), CompiledAdam(discriminator)

    @torch.no_grad()
    def step(real: Tensor, noise_d: Tensor, noise_g: Tensor) -> tuple[Tensor, Tensor]:
        fake = generator(noise_d)

        def loss_of_d(parameters: dict[str, Tensor]) -> Tensor:
            real_logits = functional_call(discriminator, parameters, (real,))
            fake_logits = functional_call(discriminator, parameters, (fake,))
            return BCE(real_logits, torch.ones_like(real_logits)) + BCE(fake_logits, torch.zeros_like(fake_logits))

        grad_d, loss_d = grad_and_value(loss_of_d)(optimizer_d.parameters)
        optimizer_d.step(grad_d)

        def loss_of_g(parameters: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            buffers = {name: b.clone() for name, b in generator.named_buffers()}  # running statistics change
            fake_logits = discriminator(functional_call(generator, parameters | buffers, (noise_g,)))
            return BCE(fake_logits, torch.ones_like(fake_logits)), buffers

        grad_g, (loss_g, buffers) = grad_and_value(loss_of_g, has_aux=True)(optimizer_g.parameters)
        for name, buffer in generator.named_buffers():
            buffer.copy_(buffers[name])
        optimizer_g.step(grad_g)
        return loss_d, loss_g

    found: Step = torch.compile(step, dynamic=False, fullgraph=True)
    return found


class CompiledAdam:
    """`torch.optim.Adam` in a form that is traced into the graph: its step number is a tensor."""

    def __init__(self, network: nn.Module) -> None:
        self.parameters = {name: p.detach() for name, p in network.named_parameters()}
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.parameters.items()}
        self.updates = torch.zeros((), device=next(network.parameters()).device)

    def step(self, grads: dict[str, Tensor]) -> None:
        self.updates.add_(1)
        beta1, beta2 = BETAS
        rate = LEARNING_RATE / (1 - beta1**self.updates)
        root = (1 - beta2**self.updates).sqrt()
        for name, p in self.parameters.items():
            first, second = self.moments[name]
            first.lerp_(grads[name], 1 - beta1)
            second.mul_(beta2).addcmul_(grads[name], grads[name], value=1 - beta2)
            p.sub_(rate * first / (second.sqrt() / root + EPS))
