"""THE dispatch: each operation validates, chooses native or reference, and differentiates.

Every operation is twice differentiable. Networks on the CPU have a native second-order pass for gradients of their
input's gradient; other second and all third derivatives are computed again from the saved inputs. Transforms of
`torch.func`, forward-mode derivatives, tensor subclasses and autocast go to the reference, which is plain PyTorch;
`torch.compile` meets the twins of `fastgan.library`.
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
