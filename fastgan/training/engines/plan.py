"""Modules, losses and optimisers as a plan of the compiled core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastgan import _schema
from fastgan.losses import GENERATOR, _discriminator_terms
from fastgan.models import GAN
from fastgan.nn import Dropout, Heads, Linear, Maxout, Residual, Sequential
from fastgan.nn.activation import of_module
from fastgan.nn.fusible import DROPOUTS, LINEARS, any_global_hook, hooks, obstacle
from fastgan.nn.segments import Segment, steps_of
from fastgan.training.config import TrainConfig
from fastgan.training.engines import recording
from fastgan.training.optimizers import STATES, VelocitySGD
from fastgan.training.plugins import kind_of, name_of
from fastgan.training.sampled import SampledRows

if TYPE_CHECKING:
    from fastgan.training.engines.updater import Updater

Description = dict[str, Any]  # of a network, a player or a whole run, as csrc/bindings_train.cpp reads it


class UnsupportedByEngine(Exception):
    """The engine does not support this; the message says why."""


class NetworkPlan:
    """A network's plan: layers of an affine map, batch normalisation, activation or maxout, dropout."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.layers: list[dict[str, Any]] = []
        self.input_dropout = 0.0
        self.dropout_seeds = 0  # of dropout masks, drawn in one forward pass
        self.heads: Heads | None = None
        self.heads_seed_index = 0
        self.parameters: list[Tensor] = []
        self._known: set[int] = set()  # of the parameters, by identity

    def refuse(self, why: str) -> UnsupportedByEngine:
        return UnsupportedByEngine(f"{self.name}: {why}")

    def affine(self, weight: Tensor, bias: Tensor | None, pieces: int = 1) -> None:
        if weight.dim() != 2 or not (bias is None or bias.shape == weight.shape[:1]):
            raise self.refuse("a layer's weight is no matrix, or its bias is not one number a row")
        if self.heads is not None:
            raise self.refuse("a layer follows Heads")
        if self.layers and self.width != weight.shape[1]:
            raise self.refuse(f"a layer takes {weight.shape[1]} features, but the one before gives {self.width}")
        self.layers.append(
            {
                "inputs": weight.shape[1],
                "outputs": weight.shape[0] // pieces,
                "pieces": pieces,
                "activation": "none",
                "negative_slope": 0.2,
                "dropout": 0.0,
                "dropout_seed_index": 0,
                "dropout_substream": 0,
                "norm": None,
                "concatenates": False,
                "weight": self.own(weight),
                "bias": None if bias is None else self.own(bias),
            }
        )

    @property
    def width(self) -> int:
        last = self.layers[-1]
        return int(last["outputs"] + last["concatenates"] * last["inputs"])

    @property
    def groups(self) -> list[tuple[str, int, int]]:
        """The groups of outputs (kind, first, width); none without heads."""
        groups, first = [], 0
        for kind, width in () if self.heads is None else self.heads.groups:
            groups.append((str(kind), first, width))
            first += width
        return groups

    def own(self, parameter: Tensor) -> Tensor:
        if id(parameter) in self._known:
            raise self.refuse("two layers share a parameter")
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise self.refuse("a parameter has hooks")
        if not parameter.is_contiguous() or parameter.is_neg():
            raise self.refuse("a parameter is not contiguous")
        self.parameters.append(parameter)
        self._known.add(id(parameter))
        return parameter

    def open_layer(self, what: str) -> dict[str, Any]:
        """The last layer, which so far may have only an affine map and normalisation; refuse if it has more."""
        last = self.layers[-1] if self.layers and self.heads is None else None
        if last is None or last["activation"] != "none" or last["pieces"] > 1 or last["dropout"] > 0:
            raise self.refuse(f"{what} does not follow a linear layer")
        return last

    def activation(self, name: str, negative_slope: float) -> None:
        if name != "none":
            self.open_layer(name).update(activation=name, negative_slope=negative_slope)

    def dropout(self, p: float, seed_index: int, substream: int) -> None:
        if p == 0.0:
            return
        if self.heads is not None:
            raise self.refuse("a dropout follows Heads")
        if not self.layers:
            if self.input_dropout:
                raise self.refuse("two dropouts follow one another")
            self.input_dropout = p
        elif self.layers[-1]["concatenates"]:
            raise self.refuse("a dropout follows Residual")
        elif self.layers[-1]["dropout"]:
            raise self.refuse("two dropouts follow one another")
        else:
            self.layers[-1].update(dropout=p, dropout_seed_index=seed_index, dropout_substream=substream)

    def batch_norm(self, norm: nn.BatchNorm1d) -> None:
        layer = self.open_layer("BatchNorm1d")
        if layer["norm"] is not None:
            raise self.refuse("two normalisations follow one another")
        if not norm.training:
            raise self.refuse("BatchNorm1d is in eval mode")
        if norm.momentum is None:
            raise self.refuse("BatchNorm1d averages its statistics over all batches (momentum=None)")
        mean, variance, batches = norm.running_mean, norm.running_var, norm.num_batches_tracked
        for vector in (norm.weight, norm.bias, mean, variance):
            if vector is not None and not _is_vector(vector, layer["outputs"], layer["weight"].dtype):
                raise self.refuse(f"BatchNorm1d has other vectors than dense ones of {layer['outputs']} numbers")
        if (mean is None) != (variance is None):
            raise self.refuse("BatchNorm1d has one of its two running statistics")
        if batches is not None and (batches.dim() or batches.dtype is not torch.int64):
            raise self.refuse("BatchNorm1d does not count its batches by a number of type int64")
        layer["norm"] = norm
        for parameter in (norm.weight, norm.bias):
            if parameter is not None:
                self.own(parameter)

    def end_in(self, heads: Heads) -> None:
        self.open_layer("Heads")
        if heads.width != self.width:
            raise self.refuse(f"Heads takes {heads.width} features, but the layer before gives {self.width}")
        if heads.impl == "reference":
            raise self.refuse("impl is 'reference'")
        self.heads, self.heads_seed_index = heads, self.dropout_seeds
        self.dropout_seeds += int(heads.draws)


def _is_vector(tensor: Tensor, length: int, dtype: torch.dtype) -> bool:
    return tensor.shape == (length,) and tensor.dtype is dtype and tensor.is_contiguous() and not tensor.is_neg()


def elements(network: nn.Module) -> Iterator[Segment | nn.Module]:
    """A network's modules in the order they run; fused segments of a fastgan Sequential stay whole."""
    plain = type(network).__call__ is nn.Module.__call__ and "forward" not in network.__dict__
    if plain and not any(hooks(network)) and isinstance(network, nn.Sequential):
        if isinstance(network, Sequential) and type(network).forward is Sequential.forward:
            steps: list[Segment | nn.Module] = list(steps_of(network))
        elif type(network).forward is nn.Sequential.forward:
            steps = list(network._modules.values())  # children() leaves out repetitions
        else:
            yield network
            return
        for step in steps:
            if isinstance(step, Segment):
                yield step
            else:
                yield from elements(step)
    else:
        yield network


def network_plan(name: str, network: nn.Module) -> NetworkPlan:
    """The plan of a network; raises UnsupportedByEngine with the reason."""
    chain = NetworkPlan(name)
    if any_global_hook():
        raise chain.refuse("torch has global module hooks")
    for element in elements(network):
        if isinstance(element, Segment):
            _take_segment(chain, element)
        else:
            _take_module(chain, element)
    if not chain.layers:
        raise chain.refuse("it has no linear layer")
    return chain


def _take_segment(chain: NetworkPlan, segment: Segment) -> None:
    if segment.impl == "reference":
        raise chain.refuse("impl is 'reference'")
    seed_index = chain.dropout_seeds
    chain.dropout_seeds += int(segment.drops)
    chain.dropout(segment.input_dropout, seed_index, 0)
    norms = segment.norms_of_layers
    for i, (weight, bias, spec) in enumerate(zip(segment.weights, segment.biases, segment.layers, strict=True)):
        chain.affine(weight, bias, spec.pieces)
        if (norm := norms[i]) is not None:
            chain.batch_norm(norm)
        if spec.dropout_first:
            raise chain.refuse(f"{spec.activation} follows a dropout")
        chain.activation(spec.activation, spec.negative_slope)
        chain.dropout(spec.dropout, seed_index, i + 1)


def _take_module(chain: NetworkPlan, module: Any) -> None:
    kind = type(module)
    if any(hooks(module)):
        raise chain.refuse("it has hooks")
    if "forward" in module.__dict__:
        raise chain.refuse("its forward is replaced")
    if kind is nn.BatchNorm1d:
        return chain.batch_norm(module)
    if kind is Heads:
        return chain.end_in(module)
    if kind is Residual:
        for part, kinds in ((module.linear, (nn.Linear, Linear)), (module.norm, (nn.BatchNorm1d,))):
            if type(part) not in kinds:
                raise chain.refuse(f"Residual with {type(part).__name__} in the place of {kinds[0].__name__}")
            _take_module(chain, part)
        chain.activation("relu", 0.0)
        chain.layers[-1]["concatenates"] = True
        return None
    if kind is nn.Flatten and module.start_dim == 1:  # rows are flat already
        return None
    if (why := obstacle(module)) is not None:
        raise chain.refuse(why)
    if module.__dict__.get("impl", "auto") == "reference":
        raise chain.refuse("impl is 'reference'")
    if kind in LINEARS:
        chain.affine(module.weight, module.bias, module.pieces if kind is Maxout else 1)
        if kind is not nn.Linear:
            chain.activation(module.spec.activation, module.spec.negative_slope)
    elif kind not in DROPOUTS:
        chain.activation(*of_module(module))  # type: ignore[misc]  # no obstacle: it is one
    elif module.training and module.p > 0:
        if kind is not Dropout:
            raise chain.refuse("torch.nn.Dropout draws its masks itself (fastgan.fuse replays them)")
        chain.dropout(module.p, chain.dropout_seeds, 0)
        chain.dropout_seeds += 1
    return None


# ---------------------------------------------------------------- descriptions


def describe(
    gan: GAN,
    config: TrainConfig,
    updaters: Mapping[str, Updater],
    data: Tensor,
    labels: Tensor | None = None,
    sampled: SampledRows | None = None,
) -> Description:
    """The plan of a run over `data` (n, features), contiguous and of the networks' type.

    labels: int32 (n,) of a conditional GAN, each one of its classes.
    sampled: rows that are drawn by their labels, of which `data` is the scalars.

    Raises:
        UnsupportedByEngine: with the reason, where a plan cannot describe it.
    """
    check_config(gan, config)
    players = {name: network_plan(f"gan.{name}", getattr(gan, name)) for name in ("generator", "discriminator")}
    generator, discriminator = players["generator"], players["discriminator"]
    for chain in players.values():
        _check_parameters(gan, chain, config)
    memory = [{p.data_ptr() for p in chain.parameters if p.numel()} for chain in players.values()]
    if memory[0] & memory[1]:
        raise UnsupportedByEngine("the networks share a parameter")
    if data.dtype != gan.dtype:
        raise UnsupportedByEngine("the networks have changed their dtype")
    features = data[0].numel() if sampled is None else sampled.table.width
    if discriminator.heads is not None:
        raise discriminator.refuse("Heads is for the output of a generator")
    inputs_of_g, inputs_of_d = gan.latent_dim + gan.classes, (features + gan.classes) * config.pack
    if generator.layers[0]["inputs"] != inputs_of_g or generator.width != features:
        raise UnsupportedByEngine(f"gan.generator: does not map {inputs_of_g} to {features} features")
    if discriminator.layers[0]["inputs"] != inputs_of_d:
        raise UnsupportedByEngine(f"gan.discriminator: does not take {inputs_of_d} features")
    if (labels is None) != (gan.classes == 0) and sampled is None:
        raise UnsupportedByEngine("gan.classes has changed during training")
    # `check_config` has refused all others
    assert isinstance(config.loss, str) and config.loss != "feature_matching" and config.discriminator_loss is not None
    formula, target, _ = GENERATOR[config.loss]
    (real, fake), (real_target, fake_target) = _discriminator_terms(
        "train", config.discriminator_loss, config.real_label, config.fake_label
    )
    ema_of: dict[Tensor, Tensor] = {}
    if config.ema_decay is not None:
        try:
            ema_of = dict(zip(gan.generator.parameters(), gan.keep_ema().parameters(), strict=True))
        except ValueError as why:
            raise UnsupportedByEngine(str(why)) from None
    described = {
        "generator": _player(generator, updaters["generator"], ema_of, config),
        "discriminator": _player(discriminator, updaters["discriminator"], {}, config),
        "latent": gan.latent_dim,
        "prior": gan.prior,
        "data": data.data_ptr(),
        "rows": len(data),
        "features": features,
        "batch": config.batch_size,
        "real": (_schema.FORMULAS[real], real_target),
        "fake": (_schema.FORMULAS[fake], fake_target),
        "generated": (_schema.FORMULAS[formula], target),
        "threshold": config.threshold,
        "classes": gan.classes,
        "labels": _address(labels),
        "table": tuple(_address(x) if isinstance(x, Tensor) else x for x in table_of(gan, sampled)),
        "dropout_seeds_per_iteration": recording.dropout_seeds(
            config, generator.dropout_seeds, discriminator.dropout_seeds
        ),
        **recording.iteration_plan(config),
    }
    return {"dtype": _schema.DTYPES[gan.dtype], "plan": _schema.of_config("TrainPlan", config) | described}


def table_of(gan: GAN, sampled: SampledRows | None) -> tuple[Any, ...]:
    """The fields of TablePlan in order, arrays as tensors on the networks' device."""
    values: dict[str, Any] = {}
    if sampled is not None:
        table, sampler = sampled.table, sampled.sampler
        if table.codes.dtype not in (torch.int16, torch.int32):
            raise UnsupportedByEngine(f"codes of the data are {table.codes.dtype}, not of 16 or 32 bits")
        values = {
            "sampled": True,
            "scalars": table.scalars.shape[1],
            "groups": table.codes.shape[1],
            "wide": table.codes.dtype == torch.int32,
            "columns": len(sampler.sizes),
        }
        values |= sampled.on(gan.device, gan.dtype)
        for name, array in values.items():
            if isinstance(array, Tensor) and not array.is_contiguous():
                raise UnsupportedByEngine(f"{name} of the data is not contiguous")
    return tuple(values.get(name, 0) for name in _schema.FIELDS["TablePlan"])


def check_config(gan: GAN, config: TrainConfig) -> None:
    """Refuse a config that no compiled engine runs, whatever the networks are."""
    if config.impl == "reference":
        raise UnsupportedByEngine("config.impl is 'reference'")
    if config.inner == "optimum":
        raise UnsupportedByEngine("config.inner is 'optimum': D's gradient decides how many steps it takes")
    if config.unroll:
        raise UnsupportedByEngine("config.unroll differentiates through D's updates")
    if config.micro_batches > 1:
        raise UnsupportedByEngine("config.micro_batches is above 1: the compiled engines take a batch at once")
    if not isinstance(config.loss, str):
        raise UnsupportedByEngine(f"config.loss is {name_of(config.loss)}, which PyTorch alone computes")
    if config.loss == "feature_matching":
        raise UnsupportedByEngine("config.loss is 'feature_matching', which looks at D's features")
    for option in ("instance_noise", "historical_averaging"):
        if getattr(config, option):
            raise UnsupportedByEngine(f"config.{option} is set, which no compiled engine computes")
    if config.precision in ("tf32", "bf16") and gan.dtype != torch.float32:
        raise UnsupportedByEngine(f"config.precision is {config.precision!r}, which is for float32 networks")
    if _global_optimizer_pre_hooks or _global_optimizer_post_hooks:
        raise UnsupportedByEngine("torch has global optimizer hooks")
    if torch.is_autocast_enabled(gan.device.type):
        raise UnsupportedByEngine("torch.autocast is on; compiled engines have config.precision")
    if gan.dtype not in (torch.float32, torch.float64):
        raise UnsupportedByEngine(
            f"the networks are {str(gan.dtype).removeprefix('torch.')}, neither float32 nor float64"
        )


def _check_parameters(gan: GAN, chain: NetworkPlan, config: TrainConfig) -> None:
    for parameter in chain.parameters:
        if parameter.dtype != gan.dtype:
            raise chain.refuse("its parameters have more than one dtype")
    network = getattr(gan, chain.name.removeprefix("gan."))
    known = {id(parameter) for parameter in chain.parameters}
    if any(id(parameter) not in known for parameter in network.parameters()):
        raise chain.refuse("it has parameters that no layer uses")
    for layer in chain.layers:
        if layer["concatenates"] and config.gradient_penalty and chain.name == "gan.discriminator":
            raise chain.refuse("Residual under a gradient penalty")
        samples = config.batch_size * (config.pack if chain.name == "gan.generator" else 1)
        if layer["norm"] is not None and samples < 2:
            raise chain.refuse("BatchNorm1d needs more than one row in a batch")
        if layer["norm"] is not None and config.gradient_penalty and chain.name == "gan.discriminator":
            raise chain.refuse("BatchNorm1d under a gradient penalty")


def _player(chain: NetworkPlan, updater: Updater, ema_of: dict[Tensor, Tensor], config: TrainConfig) -> Description:
    return {
        "layers": [_layer(layer, updater, ema_of) for layer in chain.layers],
        "input_dropout": chain.input_dropout,
        "dropout_seeds": chain.dropout_seeds,
        "precision": config.precision,
        "heads": chain.groups,
        "temperature": 1.0 if chain.heads is None else chain.heads.tau,
        "heads_seed_index": chain.heads_seed_index,
        **_schema.of_config("OptimizerPlan", config),
        **updates_of(updater.optimizer),
        "clip_weights": config.clip_weights_of(chain.name.removeprefix("gan.")) or 0.0,
    }


def reason_against(optimizer: torch.optim.Optimizer) -> str | None:
    """Why a plan cannot describe what an optimiser does; None if it can."""
    kind = type(optimizer)
    if kind not in STATES:
        return f"is {kind_of(optimizer)}, which PyTorch alone computes"
    if len(optimizer.param_groups) > 1:
        return f"has {len(optimizer.param_groups)} groups of parameters, and compiled engines take one"
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return "has hooks"
    (group,) = optimizer.param_groups
    for option in ("amsgrad", "maximize", "centered", "dampening"):
        if group.get(option):
            return f"is {kind.__name__} with {option}={group[option]!r}, which PyTorch alone computes"
    return None


def updates_of(optimizer: torch.optim.Optimizer) -> Description:
    """The rule of an optimiser and its numbers, except rate and momentum, which are arguments of a call."""
    (group,) = optimizer.param_groups
    beta1, beta2 = group.get("betas", (0.0, group.get("alpha", 0.0)))
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        rule = "adam"
    elif isinstance(optimizer, torch.optim.RMSprop):
        rule = "rmsprop"
    else:
        inside = isinstance(optimizer, VelocitySGD) and optimizer.rate_inside
        rule = "momentum_pylearn2" if inside else "momentum_torch"
    return {
        "rule": rule,
        "beta1": float(beta1),
        "beta2": float(beta2),
        "epsilon": float(group.get("eps", 0.0)),
        "weight_decay": float(group.get("weight_decay", 0.0)),
        "decoupled": isinstance(optimizer, torch.optim.AdamW) or bool(group.get("decoupled_weight_decay")),
        "nesterov": bool(group.get("nesterov")),
    }


def _layer(layer: dict[str, Any], updater: Updater, ema_of: dict[Tensor, Tensor]) -> Description:
    def addresses(parameter: Tensor | None) -> tuple[int, int, int, int]:
        """The addresses of a parameter, of its optimiser's state (`STATES`), and of its moving average."""
        if parameter is None:
            return 0, 0, 0, 0
        moments = updater.states(parameter)
        if any(m.dtype != parameter.dtype or m.shape != parameter.shape or not m.is_contiguous() for m in moments):
            raise UnsupportedByEngine("an optimiser's state has another layout than its parameter")
        ema = ema_of.get(parameter)
        if ema is not None and not ema.is_contiguous():
            raise UnsupportedByEngine("gan.ema: a parameter is not contiguous")
        first, second, *_ = *(m.data_ptr() for m in moments), 0, 0
        return parameter.data_ptr(), first, second, _address(ema)

    norm = layer["norm"]
    plain = {
        name: layer[name]
        for name in (
            "inputs",
            "outputs",
            "pieces",
            "negative_slope",
            "dropout",
            "dropout_seed_index",
            "dropout_substream",
            "concatenates",
        )
    }
    return plain | {
        "activation": _schema.ACTIVATIONS[layer["activation"]],
        "weight": addresses(layer["weight"]),
        "bias": addresses(layer["bias"]),
        "batch_norm": norm is not None,
        "norm_epsilon": norm.eps if norm is not None else 0.0,
        "norm_momentum": norm.momentum if norm is not None else 0.0,
        "norm_scale": addresses(getattr(norm, "weight", None)),
        "norm_shift": addresses(getattr(norm, "bias", None)),
        "running_mean": _address(getattr(norm, "running_mean", None)),
        "running_variance": _address(getattr(norm, "running_var", None)),
        "batches": _address(getattr(norm, "num_batches_tracked", None)),
    }


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
