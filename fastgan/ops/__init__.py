"""Operations: each validates its arguments, chooses the native or the reference implementation, and differentiates.

Every operation is twice differentiable. Networks on the CPU have a native second-order pass for gradients of their
input's gradient; other second and all third derivatives are computed again from the saved inputs. Transforms of
`torch.func`, forward-mode derivatives, tensor subclasses and autocast go to the reference, which is plain PyTorch;
`torch.compile` meets the custom operators of `fastgan._operators`.
"""

from fastgan.ops.call_cache import CallCache
from fastgan.ops.checks import check_impl, check_probability, check_same, check_tensor
from fastgan.ops.dispatch import can_look
from fastgan.ops.losses import pair_loss, pointwise
from fastgan.ops.masks import dropout
from fastgan.ops.networks import known_mlp, mlp, normalized_network
from fastgan.ops.penalties import mlp_penalty
from fastgan.ops.streams import permutation, random
from fastgan.reference import LayerSpec

__all__ = [
    "LayerSpec",
    "CallCache",
    "can_look",
    "check_impl",
    "check_probability",
    "check_same",
    "check_tensor",
    "dropout",
    "known_mlp",
    "mlp",
    "mlp_penalty",
    "normalized_network",
    "pair_loss",
    "permutation",
    "pointwise",
    "random",
]
__dir__ = __all__.copy  # what completion shows
