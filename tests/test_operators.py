"""torch.compile and the torch.library twins: opcheck on every operator, no graph breaks, few recompilations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import IMPLS, MLPS, OPERATORS, MlpCase, name_of, need, row
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import fastgan
from fastgan import _operators, ops, random
from fastgan.losses import DISCRIMINATOR, GENERATOR

pytestmark = [  # of torch against itself, while it traces
    pytest.mark.filterwarnings("ignore:`torch.jit.script"),
    pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'> should not be:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]
KEY = torch.tensor(0xC0DE)
SAMPLES = [(name, i) for name, makers in OPERATORS.items() for i in range(len(makers))]


def test_every_operator_has_six_samples() -> None:
    assert all(len(makers) >= 6 for makers in OPERATORS.values())


@pytest.mark.parametrize(("operator", "sample"), SAMPLES, ids=lambda x: str(x))
def test_opcheck(operator: str, sample: int) -> None:
    """Schema, registration of autograd, fake tensors and AOT dispatch with dynamic shapes."""
    need("native", {"mlp": "mlp", "mlp_backward": "mlp", "dropout": "dropout"}.get(operator, "loss"))
    arguments = OPERATORS[operator][sample]()
    found = getattr(_operators, f"_{operator}", None) or getattr(_operators, operator)
    result = torch.library.opcheck(found, arguments)
    assert set(result.values()) == {"SUCCESS"} and len(result) == 4


@pytest.fixture(autouse=True)
def _forget_compiled_code() -> None:
    torch._dynamo.reset()


def compiled(function: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], CompileCounterWithBackend]:
    counter = CompileCounterWithBackend("aot_eager")
    return torch.compile(function, fullgraph=True, backend=counter), counter


def assert_compiles(function: Callable[..., Tensor], make: Callable[[int], list[Tensor]]) -> None:
    """Values and gradients as in eager mode over five sizes of the batch, no break, two recompilations at most."""
    run, counter = compiled(function)
    for size in (4, 5, 8, 33, 100):
        inputs = make(size)
        expected = function(*inputs)
        upstream = torch.full_like(expected, 1.5)
        wanted = [x for x in inputs if x.requires_grad]
        want = torch.autograd.grad(expected, wanted, upstream)
        got = run(*inputs)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(torch.autograd.grad(got, wanted, upstream), want)
    assert 1 <= counter.frame_count <= 3, f"{counter.frame_count - 1} recompilations"


def logits(size: int, scale: float = 3.0) -> Tensor:
    return (scale * torch.randn(size)).requires_grad_()


LOSSES: dict[str, Callable[..., Tensor]] = {
    **{
        f"discriminator {kind}": lambda r, f, kind=kind: fastgan.discriminator_loss(r, f, kind=kind)
        for kind in DISCRIMINATOR
    },
    **{
        f"generator {kind}": lambda r, f, kind=kind: fastgan.generator_loss(
            f * r.mean(), kind=kind, real_logits=r if kind == "relativistic" else None
        )
        for kind in GENERATOR
    },
    "smoothed": lambda r, f: fastgan.discriminator_loss(r, f, real_label=0.9, fake_label=0.1, reduction="sum"),
    "unreduced": lambda r, f: torch.cat(fastgan.discriminator_loss(r, f, reduction="none")),
    "blended": lambda r, f: fastgan.blended_generator_loss(f - r, non_saturating_weight=1.0, minimax_weight=2.0),
    "mixed batch": lambda r, f: fastgan.mixed_batch_loss(r * f, f > 0.0),
    "probabilities": lambda r, f: fastgan.probability_discriminator_loss(r.sigmoid(), f.sigmoid()),
    "probability of the fake": lambda r, f: fastgan.probability_generator_loss((r * f).sigmoid()),
    "half": lambda r, f: fastgan.discriminator_loss(r.bfloat16(), f.bfloat16()),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_compile_without_a_break(name: str) -> None:
    assert_compiles(LOSSES[name], lambda size: [logits(size), logits(size, 1.0)])


@pytest.mark.parametrize("impl", IMPLS)
def test_an_explicit_impl_is_obeyed_while_compiling(impl: str) -> None:
    need(impl, "loss")
    _operators: list[str] = []

    def look(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        _operators.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    run = torch.compile(lambda x: fastgan.generator_loss(x, impl=impl), fullgraph=True, backend=look)
    x = torch.randn(5)
    torch.testing.assert_close(run(x), fastgan.generator_loss(x, impl=impl))
    assert any("fastgan" in name for name in _operators) == (impl == "native"), _operators


@pytest.mark.parametrize("case", MLPS, ids=name_of)
def test_networks_compile_without_a_break(case: MlpCase) -> None:
    _, weights, biases, key = case.make(1, dtype=torch.float32, grad=True)
    depth = len(weights)

    def network(x: Tensor, *parameters: Tensor) -> Tensor:
        present = list(parameters[depth:]) if case.bias else [None] * depth
        return case.run(x, list(parameters[:depth]), present, key, "auto")

    def make(size: int) -> list[Tensor]:
        return [torch.randn(size, case.sizes[0], requires_grad=True), *weights, *(b for b in biases if b is not None)]

    assert_compiles(network, make)


def test_dropout_compiles_without_a_break() -> None:
    assert_compiles(lambda x: ops.dropout(x, 0.5, KEY, 3), lambda size: [torch.randn(size, 6, requires_grad=True)])
    run, _ = compiled(lambda x: ops.dropout(x, 0.5, random.next_dropout_seed()))
    x = torch.ones(1000, requires_grad=True)
    first, second = run(x), run(x)
    assert not torch.equal(first, second)  # a fresh key each call, and each call's backward replays its own
    for y in (first, second):
        (loss_grad,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
        assert torch.equal(loss_grad, y.detach())


def test_a_whole_step_compiles() -> None:
    """Networks and losses in one graph, as a training step has them."""
    case = next(c for c in MLPS if c.name == "original")
    _, weights, biases, key = case.make(1, dtype=torch.float32, grad=True)

    def step(real: Tensor, fake: Tensor, *weights: Tensor) -> Tensor:
        scores = [case.run(x, list(weights), biases, key, "auto") for x in (real, fake)]
        return fastgan.discriminator_loss(*scores) + fastgan.generator_loss(scores[1])

    width = case.sizes[0]
    assert_compiles(step, lambda size: [torch.randn(size, width), torch.randn(size, width), *weights])


def test_export() -> None:
    class Score(torch.nn.Module):
        def forward(self, real: Tensor, fake: Tensor) -> Tensor:
            return fastgan.discriminator_loss(real, fake)

    real, fake = torch.randn(6), torch.randn(4)
    sizes = {"real": {0: torch.export.Dim("m", min=2)}, "fake": {0: torch.export.Dim("n", min=2)}}
    program = torch.export.export(Score(), (real, fake), dynamic_shapes=sizes)
    for m, n in ((6, 4), (9, 17)):
        real, fake = torch.randn(m), torch.randn(n)
        torch.testing.assert_close(program.module()(real, fake), fastgan.discriminator_loss(real, fake))


@pytest.mark.parametrize("grad", (False, True), ids=("inference", "training"))
def test_compiled_inference_computes_and_keeps_nothing_for_a_backward(grad: bool) -> None:
    need("native", "mlp")
    made: list[list[int]] = []

    def look(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable:
        calls = [n for n in graph.graph.nodes if "fastgan" in str(n.target)]
        made.extend([out.numel() for out in n.meta["example_value"]] for n in calls)
        return graph.forward

    x, w = torch.randn(5, 3), torch.randn(2, 3, requires_grad=grad)

    def loss(x: Tensor, w: Tensor) -> Tensor:
        y = ops.mlp(x, [w], [None], [ops.LayerSpec("tanh")])
        return fastgan.discriminator_loss(y, x)

    got = torch.compile(loss, fullgraph=True, backend=look)(x, w)
    torch.testing.assert_close(got, loss(x, w))
    (_, work), (_, grad_real, grad_fake) = made
    assert (work > 0, grad_real, grad_fake) == (grad, 10 * grad, 0)


def test_what_was_exported_for_inference_can_be_trained() -> None:
    need("native", "mlp")

    class Score(torch.nn.Module):
        def forward(self, x: Tensor, w: Tensor, real: Tensor) -> Tensor:
            return fastgan.discriminator_loss(real, ops.mlp(x, [w], [None], [ops.LayerSpec("tanh")]))

    inputs = torch.randn(5, 3), torch.randn(2, 3), torch.randn(4)
    program = torch.export.export(Score(), inputs).module()
    leaves = [t.clone().requires_grad_() for t in inputs]
    got = torch.autograd.grad(program(*leaves), leaves)
    torch.testing.assert_close(got, torch.autograd.grad(Score()(*leaves), leaves))


def test_fake_tensors_have_the_shapes_and_types_of_real_ones() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = row("fake").points(5, dtype=torch.float16)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        loss = fastgan.discriminator_loss(fake, fake)
        assert loss.shape == () and loss.dtype == torch.float32
        assert fastgan.generator_loss(fake, reduction="none").dtype == torch.float16


@pytest.mark.slow
def test_inductor() -> None:
    run = torch.compile(lambda r, f: fastgan.discriminator_loss(r * 2, f).exp(), fullgraph=True)
    real, fake = logits(7), logits(5)
    got = torch.autograd.grad(run(real, fake), (real, fake))
    want = torch.autograd.grad(fastgan.discriminator_loss(real * 2, fake).exp(), (real, fake))
    torch.testing.assert_close(got, want)
