# Copyright (c) mmext contributors. All rights reserved.
"""Mixed precision on CPUs, which mmengine's AMP wrapper refuses."""
from contextlib import contextmanager
from typing import Iterator

import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mmext.registry import OPTIM_WRAPPERS


def float32_attention(query: Tensor, key: Tensor, value: Tensor,
                      **kwargs) -> Tensor:
    """``scaled_dot_product_attention`` in float32 on the CPU.

    Args:
        query (Tensor): ``(..., L, E)``.
        key (Tensor): ``(..., S, E)``.
        value (Tensor): ``(..., S, E)``.
        **kwargs: See ``torch.nn.functional.scaled_dot_product_attention``.

    Returns:
        Tensor: ``(..., L, E)`` in the type of ``query``.
    """
    attend = F.scaled_dot_product_attention
    if query.device.type != 'cpu' or query.dtype not in (torch.bfloat16,
                                                         torch.float32):
        return attend(query, key, value, **kwargs)
    with torch.autocast('cpu', enabled=False):
        return attend(query.float(), key.float(), value.float(),
                      **kwargs).to(query.dtype)


def _is_checkpointed() -> bool:
    if torch.compiler.is_compiling():
        return False
    # Without reentering, checkpoints work by hooks of saved tensors. A torch
    # that does not tell which are active is taken to have some.
    top = getattr(torch._C._autograd, '_top_saved_tensors_default_hooks', None)
    return top is None or top(True) is not None


class Float32Attention(TorchFunctionMode):
    """Inside of it, attention on the CPU computes in float32.

    The backward pass of torch's fused attention in bfloat16 is slower than in
    float32 at the few tokens of a small image; float32 is also the more exact
    one. Calls with a mask, those of other devices or types, without
    gradients, and of checkpointed blocks are left alone: what recomputes a
    block is not inside of this.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or kwargs.get(
                'attn_mask') is not None or len(args) > 3 or \
                not torch.is_grad_enabled() or _is_checkpointed():
            return func(*args, **kwargs)
        return float32_attention(*args, **kwargs)


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Run the forward pass in bfloat16 on the CPU.

    bfloat16 has float32's range, so there is no loss scaling; parameters,
    gradients and the optimizer's state stay float32. On CPUs with AVX512-BF16
    or AMX, training takes about two thirds of the time; elsewhere it works
    and is slower. Attention stays in float32 (see :class:`Float32Attention`).
    On other devices the forward pass is not changed.

    Args:
        **kwargs: See ``mmengine.optim.OptimWrapper``.

    Example:
        >>> optim_wrapper = dict(
        ...     type='mmext.CPUAmpOptimWrapper',
        ...     optimizer=dict(type='AdamW', lr=6e-4, weight_decay=0.01))
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forward passes inside of it compute in bfloat16.

        Args:
            model (nn.Module): The model that is trained.
        """
        with super().optim_context(model), \
                torch.autocast('cpu', dtype=torch.bfloat16), \
                Float32Attention():
            yield
