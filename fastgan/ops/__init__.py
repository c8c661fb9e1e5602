"""THE dispatch: each operation validates, chooses native or reference, and differentiates.

Every operation is twice differentiable: backward recomputes from the saved inputs when a graph of the gradient is asked
for. Transforms of `torch.func`, forward-mode derivatives, tensor subclasses and autocast go to the reference, which is
plain PyTorch; `torch.compile` meets the twins of `fastgan.library`.
"""

from fastgan.ops.checks import check_impl, check_probability, check_same, check_tensor
from fastgan.ops.choosing import can_look
from fastgan.ops.losses import pair_loss, pointwise
from fastgan.ops.masks import dropout
from fastgan.ops.networks import Memo, mlp
from fastgan.ops.penalties import mlp_penalty
from fastgan.ops.streams import permutation, random
from fastgan.reference import LayerSpec

__all__ = [
    "LayerSpec",
    "Memo",
    "can_look",
    "check_impl",
    "check_probability",
    "check_same",
    "check_tensor",
    "dropout",
    "mlp",
    "mlp_penalty",
    "pair_loss",
    "permutation",
    "pointwise",
    "random",
]


def __dir__() -> list[str]:
    return __all__
