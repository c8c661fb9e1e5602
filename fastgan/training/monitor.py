"""Monitor: measures of the game beyond the history's columns, with warnings about failure modes."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch

from fastgan import losses, nn, theory
from fastgan._errors import Invalid
from fastgan.models.gan import GAN, evaluating, join
from fastgan.training import networks
from fastgan.training.callbacks import Callback, Run
from fastgan.training.config import TrainConfig
from fastgan.training.engines.eager import packed

log = logging.getLogger("fastgan")

MEASURES = ("false_positives", "false_negatives", "js_estimate", "sample_grad_norm", "spread")
_SATURATED = 1e-3  # of the largest gradient seen
_COLLAPSED = 0.05  # of the largest spread seen


class Monitor(Callback):
    """A callback of one run that measures the game every so many iterations and warns of saturation and collapse.

    Each warning is logged once a run and kept in `warnings`: saturation, where D takes no fake for real and G's samples
    get less than 1/1000 of their largest gradient so far; collapse, where the spread of G's samples is less than 1/20
    of its largest so far. A discriminator that gives probabilities instead of logits is noted there too.

    Args:
        every: iterations between measurements.
        samples: of G in each, from a fixed z.

    Attributes:
        history: by column, one number a measurement: "step";
            "false_positives", share of the fakes that D classified as real, and "false_negatives", share of the real
            rows that it classified as fake, in the iterations since the last measurement; "js_estimate",
            JSD(p_data||p_g) in nats by D's loss, a lower bound up to chance where D is not at its optimum; NaN where
            the loss is not -V(G, D): other losses than those of the paper, smoothed labels, a penalty, a
            ClassDiscriminator; "sample_grad_norm", mean length of the gradient of G's loss of a sample with respect to
            the sample; NaN for the relativistic loss, which is not defined for one sample, and for losses of your own;
            "spread", root of the total variance of G's samples.
        warnings: sentences.

    Raises:
        ValueError: every or samples below 1.

    Source: the monitoring channels of the code of Goodfellow et al. (2014), which names false positives, false
        negatives and sample_grad_norm; theorem 1 for the estimate.
    """

    def __init__(self, every: int = 100, samples: int = 256) -> None:
        for name, value in (("every", every), ("samples", samples)):
            Invalid("Monitor").check_integer(name, value, 1)
        self.every, self.samples = every, samples
        self.warnings: list[str] = []
        self._rows: list[list[float]] = []
        self._waiting: list[dict[str, np.ndarray]] = []
        self._largest = {"sample_grad_norm": 0.0, "spread": 0.0}

    @property
    def history(self) -> dict[str, np.ndarray]:
        table = np.array(self._rows).reshape(len(self._rows), 1 + len(MEASURES))
        return dict(zip(("step", *MEASURES), table.T, strict=True))

    def on_start(self, run: Run) -> None:
        if run.no_logits is not None:
            self.warnings.append(networks.advice(run.no_logits))  # `train` logs it

    def on_chunk(self, run: Run, rows: dict[str, np.ndarray]) -> None:
        self._waiting.append(rows)
        if run.step % self.every:
            return
        since = {name: np.concatenate([part[name] for part in self._waiting]) for name in rows}
        self._waiting.clear()
        loss_d = float(since["loss_d"].mean()) * (2.0 if run.config.mode == "simultaneous" else 1.0)
        measured = {
            "false_positives": 1.0 - float(since["accuracy_fake"].mean()),
            "false_negatives": 1.0 - float(since["accuracy_real"].mean()),
            "js_estimate": theory.js_from_value(-loss_d).item() if _is_value(run) else math.nan,
            **_of_samples(run.gan, run.config, self.samples),
        }
        self._rows.append([float(run.step), *(measured[name] for name in MEASURES)])
        self._check(run, measured)

    def _check(self, run: Run, measured: dict[str, float]) -> None:
        fell = {}
        for name, largest in self._largest.items():
            fell[name] = measured[name] / largest if largest else 1.0
            self._largest[name] = max(largest, measured[name]) if math.isfinite(measured[name]) else largest
        if measured["false_positives"] == 0.0 and fell["sample_grad_norm"] < _SATURATED:
            grad = f"{fell['sample_grad_norm']:.1e} of the gradient they have had"
            self._warn(run, f"G's samples get {grad}, and D takes none for real", "G's loss is saturated")
        if fell["spread"] < _COLLAPSED:
            self._warn(run, f"G's samples have {fell['spread']:.1e} of the spread they have had", "G has collapsed")

    def _warn(self, run: Run, sign: str, verdict: str) -> None:
        if not any(known.endswith(verdict) for known in self.warnings):
            self.warnings.append(f"iteration {run.step}: {sign}: {verdict}")
            log.warning("train: %s", self.warnings[-1])


def _is_value(run: Run) -> bool:
    """Whether D's loss is -V(G, D)."""
    config = run.config
    hard = (config.real_label, config.fake_label) == (1.0, 0.0)
    beside = config.gradient_penalty is not None or config.historical_averaging > 0
    plain = config.discriminator_loss == "gan" and hard and not beside
    return plain and not isinstance(run.gan.discriminator, nn.ClassDiscriminator)


def _of_samples(gan: GAN, config: TrainConfig, samples: int) -> dict[str, float]:
    """The gradient of G's loss at samples of a fixed z, and their spread; in eval mode."""
    count = math.ceil(samples / config.pack) * config.pack
    condition = gan.one_hot(torch.arange(count) % max(gan.classes, 1))
    with evaluating(gan), torch.no_grad():
        x = gan.generator(join(gan.noise(count, seed=0), condition))
    spread = math.sqrt(float(x.double().flatten(1).var(0, correction=0).sum()))
    if config.generator_sees_real or not isinstance(config.loss, str) or config.loss == "feature_matching":
        return {"sample_grad_norm": math.nan, "spread": spread}
    with evaluating(gan.discriminator), torch.enable_grad():
        x = x.requires_grad_()
        beside = None if condition is None else packed(condition, config.pack)
        logits = gan.discriminator(join(packed(x, config.pack), beside))
        (grad,) = torch.autograd.grad(losses.generator_loss(logits, kind=config.loss, reduction="sum"), x)
    return {"sample_grad_norm": float(grad.double().flatten(1).norm(dim=1).mean()), "spread": spread}
