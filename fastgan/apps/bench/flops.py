"""The arithmetic that an iteration cannot do without: the lower bound under every time.

Counted are matrix products alone, two operations for a multiplication with an addition, each product once. Not
necessary, and so not counted: D's weight gradients in G's step, G's backward pass in D's step, the gradient of a
network's input where nothing needs it. A maxout layer's products are counted with all its pieces, backward too, though
a library that follows only the winning piece could do less there.
"""

from __future__ import annotations

from fastgan.apps.bench.workloads import MlpSizes, Workload


def forward(network: MlpSizes, rows: int) -> float:
    """Operations of one forward pass."""
    return sum(2.0 * rows * inputs * outputs for inputs, outputs in network.products())


def first_layer(network: MlpSizes, rows: int) -> float:
    """Operations of one product with the first layer's weights."""
    inputs, outputs = network.products()[0]
    return 2.0 * rows * inputs * outputs


def iteration(workload: Workload) -> float:
    """Operations of one iteration of Algorithm 1 with k = 1: D's step on real and fake rows, then G's."""
    g, d, m = workload.generator, workload.discriminator, workload.batch
    weight_gradients_d = forward(d, 2 * m)
    input_gradients_d = forward(d, 2 * m) - first_layer(d, 2 * m)
    step_d = forward(g, m) + forward(d, 2 * m) + weight_gradients_d + input_gradients_d
    through_d = forward(d, m) + forward(d, m)  # logits, and their gradient down to the fakes
    step_g = forward(g, m) + through_d + forward(g, m) + forward(g, m) - first_layer(g, m)
    return step_d + step_g
