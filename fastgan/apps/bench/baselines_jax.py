"""JAX's side: the whole loop compiled, `lax.scan` over iterations, random numbers drawn inside."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgan.apps.bench.fastgan_side import change
from fastgan.apps.bench.workloads import BETAS, EPS, LEARNING_RATE, NEGATIVE_SLOPE, Draws, MlpSizes, Workload

Array = Any
Parameters = dict[str, Array]
CALIBRATION = 8  # iterations of the scan that tells how long the timed one should be


def _import() -> tuple[Any, Any]:
    try:
        import jax
        from jax import numpy as jnp
    except ImportError:
        raise ImportError("jax is not installed: pip install jax") from None
    return jax, jnp


class Jax:
    """Trains with one compiled call of many iterations.

    Args:
        workload, data: what is trained, on what.
        seconds: about how long a timed call should take.
    """

    def __init__(self, workload: Workload, data: Tensor, seconds: float) -> None:
        self.workload = workload
        self.jax, jnp = _import()
        if (backend := self.jax.default_backend()) != {"cuda": "gpu"}.get(data.device.type, data.device.type):
            raise RuntimeError(f"JAX runs on {backend}, the data are on {data.device.type}")
        self.seconds, self.data = seconds, jnp.asarray(data.cpu().numpy())
        self.iteration = iteration(workload)
        self.scan = self.jax.jit(self._calls, static_argnums=2, donate_argnums=0)
        self.key = self._first_key()
        self.state = self._first()

    @functools.cached_property
    def per_call(self) -> int:
        """Iterations of a timed call, for which all is compiled when this is first asked."""
        self._call(CALIBRATION)
        started = time.perf_counter()
        self._call(CALIBRATION)
        iterations = max(1, round(self.seconds * CALIBRATION / (time.perf_counter() - started)))
        self._call(iterations)
        return iterations

    def run(self) -> None:
        """`per_call` iterations."""
        self._call(self.per_call)

    def replay(self, draws: Draws) -> dict[str, Tensor]:
        """Run these iterations from the first weights; the losses, and the changes of the parameters."""
        state, losses = self.jax.jit(self._replay)(self._first(), _arrays(draws))
        return _results(self.workload, 0, state, losses)

    def _replay(self, state: Any, draws: Any) -> Any:
        return self.jax.lax.scan(lambda s, x: self.iteration(s, *x), state, draws)

    def _first(self) -> dict[str, Any]:
        found: dict[str, Any] = self.jax.device_put(_first(self.workload, 0))
        return found

    def _first_key(self) -> Array:
        return self.jax.random.key(0)

    def _calls(self, state: Any, key: Array, iterations: int) -> tuple[Any, Array, Array]:
        return self._drawn(state, key, iterations)

    def _call(self, iterations: int) -> None:
        self.state, self.key, losses = self.scan(self.state, self.key, iterations)
        self.jax.block_until_ready((self.state, losses))

    def _drawn(self, state: Any, key: Array, iterations: int) -> tuple[Any, Array, Array]:
        random, m, latent_dim = self.jax.random, self.workload.batch, self.workload.latent_dim

        def body(carry: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], Array]:
            state, key = carry
            key, key_rows, key_d, key_g = random.split(key, 4)
            real = self.data[random.randint(key_rows, (m,), 0, len(self.data))]
            noise = random.normal(key_d, (m, latent_dim)), random.normal(key_g, (m, latent_dim))
            state, losses = self.iteration(state, real, *noise)
            return (state, key), losses

        (state, key), losses = self.jax.lax.scan(body, (state, key), None, length=iterations)
        return state, key, losses


class Vmap(Jax):
    """Trains a population: the same loop over iterations, `vmap` over members whose weights and draws are their own.

    Args:
        workload, data, seconds: as for one.
        members: how many, with the seeds 0, 1, ...
    """

    def __init__(self, workload: Workload, data: Tensor, seconds: float, members: int) -> None:
        self.members = members
        super().__init__(workload, data, seconds)

    def replay_members(self, seeds: Sequence[int], draws: Sequence[Draws]) -> list[dict[str, Tensor]]:
        """`replay` of some members, side by side."""
        first = self._stacked([_first(self.workload, seed) for seed in seeds])
        inputs = self._stacked([_arrays(of_member) for of_member in draws])
        found = self.jax.device_get(self.jax.jit(self.jax.vmap(self._replay))(first, inputs))
        of_member = [self.jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(seeds))]
        return [_results(self.workload, seed, *of) for seed, of in zip(seeds, of_member, strict=True)]

    def _stacked(self, trees: Sequence[Any]) -> Any:
        """One tree of arrays on the device, with an axis of members in front."""
        return self.jax.device_put(self.jax.tree.map(lambda *leaves: np.stack(leaves), *trees))

    def _first(self) -> dict[str, Any]:
        found: dict[str, Any] = self._stacked([_first(self.workload, seed) for seed in range(self.members)])
        return found

    def _first_key(self) -> Array:
        return self.jax.random.split(super()._first_key(), self.members)

    def _calls(self, state: Any, key: Array, iterations: int) -> tuple[Any, Array, Array]:
        found: tuple[Any, Array, Array] = self.jax.vmap(lambda s, k: self._drawn(s, k, iterations))(state, key)
        return found


def _first(workload: Workload, seed: int) -> dict[str, Any]:
    return {name: _state(weights) for name, weights in workload.weights(seed).items()}


def _arrays(draws: Draws) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(x) for x in (draws.real, draws.noise_d, draws.noise_g))


def _results(workload: Workload, seed: int, state: Any, losses: Any) -> dict[str, Tensor]:
    """Losses, and what the iterations since the first weights have changed."""
    after = {
        network: {name: _tensor(value) for name, value in state[network]["parameters"].items()}
        for network in ("generator", "discriminator")
    }
    loss_d, loss_g = (_tensor(column) for column in losses)
    return {"loss_d": loss_d, "loss_g": loss_g} | change(workload.weights(seed), after)


def _state(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Parameters, Adam's moments and running statistics; weights are kept (inputs, outputs), as JAX users do."""
    arrays = {name: np.ascontiguousarray(value.T if value.ndim == 2 else value) for name, value in weights.items()}
    parameters = {name: a for name, a in arrays.items() if name.rpartition(".")[2] in ("weight", "bias")}
    return {
        "parameters": parameters,
        "moments": {name: (np.zeros_like(a), np.zeros_like(a)) for name, a in parameters.items()},
        "updates": np.zeros((), np.float32),
        "running": {name: a for name, a in arrays.items() if "running" in name},
    }


def _tensor(value: Array) -> Tensor:
    array = np.array(value)
    return torch.from_numpy(np.ascontiguousarray(array.T if array.ndim == 2 else array))


def forward(network: MlpSizes) -> Callable[[Parameters, Parameters, Array], tuple[Array, Parameters]]:
    """(parameters, running statistics, x) -> (output, running statistics), the network in train mode."""
    jax, jnp = _import()
    activations: dict[str, Callable[[Array], Array]] = {
        "relu": jax.nn.relu,
        "leaky_relu": lambda h: jax.nn.leaky_relu(h, NEGATIVE_SLOPE),
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
    }

    def normalise(i: int, parameters: Parameters, running: Parameters, h: Array) -> tuple[Array, Parameters]:
        mean, variance, unbiased = h.mean(0), h.var(0), h.var(0, ddof=1)
        moved = {
            f"{i}.running_mean": 0.9 * running[f"{i}.running_mean"] + 0.1 * mean,
            f"{i}.running_var": 0.9 * running[f"{i}.running_var"] + 0.1 * unbiased,
        }
        h = (h - mean) * jax.lax.rsqrt(variance + 1e-5)
        return h * parameters[f"{i}.weight"] + parameters[f"{i}.bias"], running | moved

    def apply(parameters: Parameters, running: Parameters, h: Array) -> tuple[Array, Parameters]:
        for i, (kind, numbers) in enumerate(network.layers()):
            if kind == "batch_norm":
                h, running = normalise(i, parameters, running, h)
            elif kind in activations:
                h = activations[kind](h)
            else:
                h = h @ parameters[f"{i}.weight"] + parameters.get(f"{i}.bias", 0.0)
                if kind == "maxout":
                    h = h.reshape(len(h), numbers[1], numbers[2]).max(-1)
        return h, running

    return apply


def adam(state: dict[str, Any], grads: Parameters) -> dict[str, Any]:
    """The state after one update of Adam's."""
    _, jnp = _import()
    beta1, beta2 = BETAS
    updates = state["updates"] + 1
    rate, root = LEARNING_RATE / (1 - beta1**updates), jnp.sqrt(1 - beta2**updates)
    parameters, moments = {}, {}
    for name, grad in grads.items():
        first, second = state["moments"][name]
        first, second = beta1 * first + (1 - beta1) * grad, beta2 * second + (1 - beta2) * grad * grad
        parameters[name] = state["parameters"][name] - rate * first / (jnp.sqrt(second) / root + EPS)
        moments[name] = first, second
    return state | {"parameters": parameters, "moments": moments, "updates": updates}


def iteration(workload: Workload) -> Callable[..., tuple[dict[str, Any], Array]]:
    """(state, real, noise for D, noise for G) -> (state, (loss_d, loss_g)): Algorithm 1 with k = 1."""
    jax, _ = _import()
    generate, discriminate = forward(workload.generator), forward(workload.discriminator)

    def loss_of_d(parameters: Parameters, real: Array, fake: Array) -> Array:
        real_logits, fake_logits = (discriminate(parameters, {}, x)[0] for x in (real, fake))
        return jax.nn.softplus(-real_logits).mean() + jax.nn.softplus(fake_logits).mean()

    def loss_of_g(parameters: Parameters, running: Parameters, d: Parameters, z: Array) -> tuple[Array, Parameters]:
        fake, running = generate(parameters, running, z)
        return jax.nn.softplus(-discriminate(d, {}, fake)[0]).mean(), running

    def iterate(state: dict[str, Any], real: Array, noise_d: Array, noise_g: Array) -> tuple[dict[str, Any], Array]:
        g, d = state["generator"], state["discriminator"]
        fake, running = generate(g["parameters"], g["running"], noise_d)
        loss_d, grad_d = jax.value_and_grad(loss_of_d)(d["parameters"], real, fake)
        d = adam(d, grad_d)
        (loss_g, running), grad_g = jax.value_and_grad(loss_of_g, has_aux=True)(
            g["parameters"], running, d["parameters"], noise_g
        )
        return {"generator": adam(g | {"running": running}, grad_g), "discriminator": d}, (loss_d, loss_g)

    return iterate
