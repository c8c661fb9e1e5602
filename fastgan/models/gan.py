"""GAN: a generator, a discriminator and the prior that joins them."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan import _deprecation, nn, random
from fastgan._errors import Invalid, check_choice
from fastgan._files import write_atomically
from fastgan._options import ExportFormat, Impl, PriorName
from fastgan._torch_settings import usable_device
from fastgan.nn import saved
from fastgan.random import Purpose

invalid = Invalid("GAN")

_OF_SAMPLES = (1 << 16) - 1  # substream of the seeds of noise within G: no process of several has it


class GAN(torch.nn.Module):
    """A generator G(z), a discriminator whose output is the logit of D(x), and the prior p_z of the noise.

    Equivalent to two ordinary modules kept side by side: nothing is wrapped, copied or hooked.

    With `classes` it is the conditional model p(x|c): the one-hot label c is appended to the input of both networks,
    to images as constant maps. The data must then have labels.

    Args:
        generator: any module from latent vectors (m, latent_dim), or (m, latent_dim + classes), to samples (m, ...).
        discriminator: any module from samples (m, ...) to logits (m, 1) or (m,), one or more a sample; of a conditional
            model from (m, features + classes).
        latent_dim: length of z.
        prior: "normal" N(0, I); "uniform" on [-sqrt 3, sqrt 3] (variance 1); "spherical" (unit length).
        data_shape: shape of one sample; None: not checked.
        classes: how many labels there are, from 0; 0: no labels.

    Raises:
        TypeError: a network is not a module. ValueError: an unknown prior, a bad size, or parameters shared by both
            networks.

    Source: Goodfellow et al. (2014), section 3, and section 7 for the conditional model; Mirza and Osindero (2014).
    """

    def __init__(
        self,
        generator: torch.nn.Module,
        discriminator: torch.nn.Module,
        *,
        latent_dim: int,
        prior: PriorName = "normal",
        data_shape: Sequence[int] | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        for name, network in (("generator", generator), ("discriminator", discriminator)):
            if not isinstance(network, torch.nn.Module):
                raise invalid.type(name, f"must be a torch.nn.Module, got {type(network).__name__}")
        if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
            raise invalid.value("latent_dim", f"must be an integer of at least 1, got {latent_dim!r}")
        check_choice("GAN", "prior", prior, random.PRIORS)
        if not isinstance(classes, int) or isinstance(classes, bool) or classes < 0:
            raise invalid.value("classes", f"must be an integer of at least 0, got {classes!r}")
        # A shared parameter would be pulled both ways by two optimisers that know nothing of each other.
        if {id(p) for p in generator.parameters()} & {id(p) for p in discriminator.parameters()}:
            raise invalid.value("generator and discriminator", "must not share parameters, got a shared one")
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.prior = prior
        for i, size in enumerate(data_shape or ()):
            invalid.check_integer(f"data_shape[{i}]", size, 1)
        self.data_shape = None if data_shape is None else tuple(int(size) for size in data_shape)
        self.classes = classes
        self.ema: torch.nn.Module | None = None  # G with the moving average of its weights, if training keeps one

    def __repr__(self) -> str:
        """One line; `gan.generator` and `gan.discriminator` show their layers."""
        networks = ", ".join(
            f"{name}=<{type(network).__name__}, {sum(p.numel() for p in network.parameters()):,} parameters>"
            for name, network in self.named_children()
        )
        shape = "" if self.data_shape is None else f", data_shape={self.data_shape}"
        classes = f", classes={self.classes}" if self.classes else ""
        return f"GAN({networks}, latent_dim={self.latent_dim}, prior={self.prior!r}{shape}{classes})"

    averaged = _deprecation.Attribute("GAN.averaged", "ema")
    keep_average = _deprecation.Attribute("GAN.keep_average", "keep_ema")
    update_average = _deprecation.Attribute("GAN.update_average", "update_ema")
    buffers_of_average = _deprecation.Attribute("GAN.buffers_of_average", "ema_buffers")

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "averaged":  # torch would register a module under the old name
            _deprecation.warn("GAN.averaged", "GAN.ema")
            name = "ema"
        super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle, also from a version that called the moving average `averaged`."""
        for part in (state, state.get("_modules", {})):
            if "averaged" in part:
                part["ema"] = part.pop("averaged")
        super().__setstate__(state)

    @property
    def device(self) -> torch.device:
        """The networks' device: that of the first parameter, the CPU without parameters."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The networks' dtype: that of the first floating parameter."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def keep_ema(self) -> torch.nn.Module:
        """The moving average `ema`; a copy of G if there is none yet.

        Raises:
            ValueError: it is the average of another network.
        """
        if self.ema is None:
            self.ema = copy.deepcopy(self.generator).requires_grad_(False)
        ema, live = (
            [(tuple(x.shape), x.dtype, x.device) for x in (*network.parameters(), *network.buffers())]
            for network in (self.ema, self.generator)
        )
        if ema != live:
            differ = next((pair for pair in zip(ema, live, strict=False) if pair[0] != pair[1]), None)
            got = f"{len(ema)} for {len(live)}" if differ is None else "{} for {}".format(*differ)
            raise invalid.value("ema", f"must be None, or have the parameters and buffers of generator, got {got}")
        return self.ema

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in [name for name in state_dict if name.startswith(f"{prefix}averaged.")]:  # an earlier version's
            state_dict[f"{prefix}ema.{name.removeprefix(f'{prefix}averaged.')}"] = state_dict.pop(name)
        # Before torch looks for modules to load into: the average of a run that kept one must not be lost.
        if any(name.startswith(f"{prefix}ema.") for name in state_dict):
            self.keep_ema()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def update_ema(self, decay: float) -> None:
        """ema <- decay * ema + (1 - decay) * G for the weights; buffers are copied.

        Not checked: whether `ema` is an average of G. `keep_ema` checks it once a run, because that costs more than an
        update.
        """
        ema = self.keep_ema() if self.ema is None else self.ema
        torch._foreach_lerp_(list(ema.parameters()), list(self.generator.parameters()), 1.0 - decay)
        for mine, live in self.ema_buffers():
            mine.copy_(live)

    def ema_buffers(self) -> list[tuple[Tensor, Tensor]]:
        """Pairs of a buffer of `ema` and the buffer of G that it copies: running statistics are not averaged twice."""
        ema = self.keep_ema() if self.ema is None else self.ema
        return list(zip(ema.buffers(), self.generator.buffers(), strict=True))

    def forward(self, z: Tensor) -> Tensor:
        """G(z) in the current mode, with gradients. z: (m, latent_dim), with the labels appended by `join` if any."""
        return self.generator(z)

    def one_hot(self, labels: Tensor) -> Tensor | None:
        """Labels (m,) as one-hot vectors (m, classes); None if the model is not conditional."""
        if not self.classes:
            return None
        return torch.nn.functional.one_hot(labels.to(self.device), self.classes).to(self.dtype)

    def noise(
        self,
        n: int,
        *,
        seed: int,
        purpose: Purpose = Purpose.SAMPLE,
        step: int = 0,
        offset: int = 0,
        impl: Impl = "auto",
    ) -> Tensor:
        """n latent vectors z ~ p_z, rows offset .. offset+n of the stream (seed, purpose, step).

        Returns:
            Tensor (n, latent_dim) of the networks' type, on their device.
        """
        Invalid("noise").check_integer("offset", offset, 0)
        return random.prior(
            self.prior,
            (n, self.latent_dim),
            seed=seed,
            purpose=purpose,
            step=step,
            offset=offset * self.latent_dim,
            dtype=self.dtype,
            device=self.device,
            impl=impl,
        )

    @_deprecation.argument("sample", "averaged", "ema")
    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        batch_size: int = 256,
        offset: int = 0,
        device: torch.device | str | None = None,
        ema: bool = True,
        labels: int | Tensor | None = None,
    ) -> Tensor:
        """Samples G(z), z ~ p_z, with G in eval mode; the mode is restored.

        Sample i of a seed has the same bits in every call: `sample(9, seed=1)` equals `cat([sample(4, seed=1),
        sample(5, seed=1, offset=4)])`.

        Args:
            n: how many.
            seed: of the stream of latent vectors.
            batch_size: rows in one forward pass. The last bits depend on it, because matrix products of other sizes
                may round differently.
            offset: number of the first sample.
            device: of the result; default: that of the networks.
            ema: use the moving average of G's weights, if training kept one.
            labels: of a conditional model: one for all, or int64 (n,); None: sample i has label i modulo `classes`.

        Returns:
            Tensor (n, ...).

        Raises:
            ValueError: n or offset negative, batch_size below 1, a label that is no class, a device that is not here.
        """
        for name, value, least in (("n", n, 0), ("offset", offset, 0), ("batch_size", batch_size, 1)):
            Invalid("sample").check_integer(name, value, least)
        if device is not None:
            device = usable_device("sample", device)
        chosen = self._labels(labels, n, offset)
        # Every forward pass runs a whole block, aligned to the absolute row number, also where fewer rows are
        # wanted: a product of another size would take another kernel and round differently.
        first_block, last_block = offset // batch_size, max(offset + n - 1, offset) // batch_size
        pieces = []
        generator = self.ema if ema and self.ema is not None else self.generator
        with evaluating(generator):
            for block in range(first_block, last_block + 1):
                start = block * batch_size
                first, last = max(offset - start, 0), min(max(offset + n - start, 0), batch_size)
                z = self.noise(batch_size, seed=seed, offset=start)
                labels_of_block = torch.zeros(batch_size, dtype=torch.int64)
                labels_of_block[first:last] = chosen[start + first - offset : start + last - offset]
                with random.dropout_seeds(seed, block, _OF_SAMPLES):  # of noise within G, as of nn.Heads
                    wanted = generator(join(z, self.one_hot(labels_of_block)))[first:last]
                pieces.append(wanted.to(device) if device is not None else wanted)
        return torch.cat(pieces)

    def _labels(self, labels: int | Tensor | None, n: int, offset: int) -> Tensor:
        """A label for each of samples offset .. offset+n, (n,) on the CPU; zeros where the model is not conditional."""
        if not self.classes:
            if labels is not None:
                raise Invalid("sample").value("labels", f"must be None for a model without classes, got {labels!r}")
            return torch.zeros(n, dtype=torch.int64)
        if labels is None:
            return torch.arange(offset, offset + n) % self.classes
        chosen = torch.as_tensor(labels, device="cpu")
        return check_labels("sample", chosen.expand(n) if chosen.ndim == 0 else chosen, n, self.classes)

    @torch.no_grad()
    def interpolate(self, start: Tensor, end: Tensor, steps: int = 11, *, labels: int | Tensor | None = None) -> Tensor:
        """Samples G(z) along straight lines in the space of the noise, with G in eval mode; the mode is restored.

        The first and the last are G(start) and G(end) to the last bit. Noise within G, such as that of `nn.Heads`, is
        the same at each step: that of the first samples of seed 0.

        Args:
            start, end: (n, latent_dim) noise where the lines begin and end.
            steps: samples on a line, ends included; at least 2.
            labels: of a conditional model, as in `sample`.

        Returns:
            Tensor (n, steps, ...).

        Raises:
            ValueError: shapes that do not fit, or fewer than 2 steps.

        Source: Goodfellow et al. (2014), figure 3.
        """
        for name, z in (("start", start), ("end", end)):
            if z.ndim != 2 or z.shape != (len(start), self.latent_dim):
                raise Invalid("interpolate").value(name, f"must be (n, {self.latent_dim}), got {tuple(z.shape)}")
        Invalid("interpolate").check_integer("steps", steps, 2)
        generator = self.generator if self.ema is None else self.ema
        condition = self.one_hot(self._labels(labels, len(start), 0))
        with evaluating(generator):  # a batch a step, so that the ends are products of the size of G(start)
            samples = []
            for at in range(steps):
                with random.dropout_seeds(0, 0, _OF_SAMPLES):
                    samples.append(generator(join(torch.lerp(start, end, at / (steps - 1)), condition)))
        return torch.stack(samples, 1)

    @torch.no_grad()
    def logits(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The discriminator's logits of x in eval mode, without gradients; the mode is restored.

        Args:
            x: (m, ...), moved to the networks' device and type.
            labels: of a conditional model, int64 (m,).

        Returns:
            Tensor (m,) for one logit a sample, otherwise what the discriminator gives.
        """
        if (labels is None) != (self.classes == 0):
            rule, got = ("given", "None") if self.classes else ("None", "labels")
            raise Invalid("logits").value(
                "labels", f"must be {rule} where the model has {self.classes} classes, got {got}"
            )
        condition = None if labels is None else self.one_hot(check_labels("logits", labels, len(x), self.classes))
        with evaluating(self.discriminator):
            logits = self.discriminator(join(x.to(device=self.device, dtype=self.dtype), condition))
        return logits.reshape(len(x)) if logits.numel() == len(x) else logits

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write both networks, the moving average and a description of them into one safetensors file; no pickle.

        `GAN.load(path)` builds networks of torch.nn's and fastgan's modules again. Of a network of your own class the
        file has the weights alone, and `load` needs the network.

        Args:
            path: of the file.

        Returns:
            Path of the file.

        Raises:
            OSError: it cannot be written. ValueError: the state_dict has a value that is not a tensor.
        """
        tensors = {f"{saved.PREFIX}{name}": value for name, value in self.state_dict().items()}
        write_atomically(path, [saved.to_bytes(tensors, saved.describe(self))])
        return Path(path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        generator: torch.nn.Module | None = None,
        discriminator: torch.nn.Module | None = None,
    ) -> GAN:
        """The GAN of a file that `save` has written, or of the newest checkpoint of a run folder, on the CPU.

        Args:
            path: file of `save`, tensor file of a checkpoint, or a folder of `train(run_dir=...)`.
            generator, discriminator: networks that get the weights; None: built as the file describes them.

        Raises:
            FileNotFoundError: there is none. ValueError: it is damaged, of another program or of other networks, or a
                network must be given.
        """
        file, tensors, described = saved.read(path)
        given = {"generator": generator, "discriminator": discriminator}
        networks = [
            saved.network(name, file, tensors, described) if network is None else network
            for name, network in given.items()
        ]
        try:
            gan = cls(*networks, **described["gan"])
            saved.load_state(gan, tensors)
            frozen = set(described["frozen"])
        except (RuntimeError, KeyError, TypeError, AttributeError) as error:
            got = " ".join(str(error).split())[:300]
            raise Invalid("GAN.load").value(file, f"must hold the tensors of these networks, got {got}") from None
        for name, parameter in gan.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return gan

    def export(self, path: str | os.PathLike[str], format: ExportFormat | None = None, *, ema: bool = True) -> Path:
        """Write the generator for programs without fastgan, in eval mode, for the CPU.

        Its input is the noise (m, latent_dim); of a conditional model, the noise and the one-hot label, (m, latent_dim
        + classes).

        Args:
            path: file to write.
            format: "torch", "torchscript" or "onnx", as in `nn.export`; None: by the path's end.
            ema: write the moving average of G's weights, if training kept one.

        Returns:
            Path of the file.

        Raises:
            ValueError, ImportError, OSError: as `nn.export`.
        """
        generator = self.ema if ema and self.ema is not None else self.generator
        z = join(self.noise(8, seed=0), self.one_hot(torch.arange(8) % max(self.classes, 1)))
        return nn.export(generator, z, path, format)

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """The likeliest class of each x (m, ...), int64 (m,), by a `nn.ClassDiscriminator` in eval mode.

        Raises:
            TypeError: the discriminator is not one.
        """
        if not isinstance(self.discriminator, nn.ClassDiscriminator):
            got = type(self.discriminator).__name__
            raise Invalid("classify").type("discriminator", f"must be a fastgan.nn.ClassDiscriminator, got {got}")
        with evaluating(self.discriminator):
            return self.discriminator.class_logits(x.to(device=self.device, dtype=self.dtype)).argmax(1)


def join(x: Tensor, condition: Tensor | None) -> Tensor:
    """A network's input: x (m, features), with the labels' (m, classes) appended where there are any.

    To images (m, channels, ...) they are appended as channels of one value each.
    """
    if condition is None:
        return x
    beside = condition.reshape(*condition.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
    return torch.cat([x, beside], 1)


def check_labels(caller: str, labels: Tensor, n: int, classes: int) -> Tensor:
    """Labels of n samples: int64 (n,) from 0 to classes - 1.

    Raises:
        TypeError: no integers. ValueError: another number of them, or one that is no class.
    """
    if labels.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise Invalid(caller).type("labels", f"must be integers, got {labels.dtype}")
    if labels.shape != (n,):
        raise Invalid(caller).value("labels", f"must have shape ({n},), got {tuple(labels.shape)}")
    low, high = (int(labels.min()), int(labels.max())) if n else (0, 0)
    if low < 0 or high >= classes:
        raise Invalid(caller).value("labels", f"must lie in 0 to {classes - 1}, got {low} to {high}")
    return labels.to(torch.int64)


@contextlib.contextmanager
def evaluating(network: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each submodule is back in the mode it had, also after an exception."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
