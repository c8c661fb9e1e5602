"""Checks of labels and config for a conditional GAN and for a class discriminator."""

from __future__ import annotations

import logging

import torch

from fastgan import nn
from fastgan._errors import Invalid
from fastgan.models.gan import GAN, check_labels, evaluating
from fastgan.training.config import TrainConfig
from fastgan.training.rows import Minibatches
from fastgan.training.sampled import SampledRows, body_and_heads

invalid = Invalid("train")

log = logging.getLogger("fastgan")


def check(gan: GAN, rows: Minibatches, config: TrainConfig) -> None:
    """Conditional models: a label for each row. Discriminators of classes: for some. All others: nothing.

    Raises:
        TypeError, ValueError: what is missing, or cannot go together.
    """
    if isinstance(gan.discriminator, nn.ClassDiscriminator):
        _check_classes(gan, gan.discriminator, rows, config)
    elif rows.sampled is not None:
        _check_sampled(gan, rows.sampled, config)
    elif gan.classes:
        if len(rows.shape) not in (1, 3):
            rule = "have flat rows, or images (channels, height, width), where gan.classes is set"
            raise invalid.value("data", f"must {rule}, got shape {rows.shape}")
        if rows.labels is None:
            raise invalid.value("data", "must have labels, one whole number a row, where gan.classes is set, got none")
        check_labels("train", rows.labels, rows.n, gan.classes)
        if gan.classes > 1 and bool((rows.labels == rows.labels[0]).all()):
            only = int(rows.labels[0])
            log.warning("train: every label is %d; of %d other classes the GAN learns nothing", only, gan.classes - 1)


def _check_sampled(gan: GAN, sampled: SampledRows, config: TrainConfig) -> None:
    labels = sampled.sampler.width
    if gan.classes != labels:
        raise invalid.value("gan.classes", f"must be the {labels} labels of the data, got {gan.classes}")
    if labels and body_and_heads(gan.generator) is None:
        got = type(gan.generator).__name__
        raise invalid.value("gan.generator", f"must be a Sequential that ends in nn.Heads, got {got}")
    # G's step has labels of its own, so that it has no real rows to look at.
    for name, value, needed in (
        ("generator_sees_real", config.generator_sees_real, False),
        ("unroll", config.unroll, 0),
        ("loss", config.loss, config.loss if config.loss != "feature_matching" else "of logits"),
    ):
        if value != needed:
            raise invalid.value(f"config.{name}", f"must be {needed!r} where rows are drawn by labels, got {value!r}")


def _check_classes(gan: GAN, discriminator: nn.ClassDiscriminator, rows: Minibatches, config: TrainConfig) -> None:
    # It sees one sample at a time, by the logit of the paper's loss, and as it is.
    for name, value, needed in (
        ("gan.classes", gan.classes, 0),
        ("config.pack", config.pack, 1),
        ("config.unroll", config.unroll, 0),
        ("the discriminator's loss", config.discriminator_loss, "gan"),
    ):
        if value != needed:
            raise invalid.value(name, f"must be {needed!r} for a ClassDiscriminator, got {value!r}")
    if rows.labels is None or not bool((rows.labels >= 0).any()):
        got = "no labels" if rows.labels is None else "-1 everywhere"
        raise invalid.value("data", f"must have labels, one whole number a row, for a ClassDiscriminator, got {got}")
    with evaluating(discriminator), torch.no_grad():
        classes = discriminator.class_logits(rows.gather(torch.arange(1))).shape[1]
    known = rows.labels[rows.labels >= 0]
    check_labels("train", known, len(known), classes)
