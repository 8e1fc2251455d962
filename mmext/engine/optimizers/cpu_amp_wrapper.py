# Copyright (c) mmext contributors. All rights reserved.
"""Mixed precision on CPUs, which mmengine's AMP wrapper refuses."""
from contextlib import contextmanager
from typing import Iterator

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmext.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class CPUAmpOptimWrapper(OptimWrapper):
    """Run the forward pass in bfloat16 on the CPU.

    bfloat16 has float32's range, so there is no loss scaling; parameters,
    gradients and the optimizer's state stay float32. On CPUs with AVX512-BF16
    or AMX, training takes about two thirds of the time; elsewhere it works
    and is slower. On other devices the forward pass is not changed.

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
                torch.autocast('cpu', dtype=torch.bfloat16):
            yield
