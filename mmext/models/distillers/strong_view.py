# Copyright (c) mmext contributors. All rights reserved.
"""A harder view of spikes for the student."""
import numpy as np
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.spike import strong_view


@register_depth(MODELS)
class SpikeStrongView(nn.Module):
    """:func:`~mmext.spike.strong_view` as a part of a model's config.

    Random numbers come from torch's generator of the device.

    Args:
        **options: Arguments of :func:`~mmext.spike.strong_view`, such as
            chunk, silence and erase_area.

    Raises:
        ConfigError: If one of them is out of range.

    Example:
        >>> model = dict(
        ...     type='mmext.CrossDomainAdapter',
        ...     strong_aug=dict(type='mmext.SpikeStrongView', silence=0.05))
    """

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options
        # A misspelt or impossible option stops here, not in the first step.
        strong_view(
            np.zeros((2, 8, 8), np.int8), np.random.RandomState(0), **options)

    def forward(self, spikes: Tensor) -> Tensor:
        """(B, T, H, W) of -1 and 1 to the same."""
        return strong_view(spikes, **self.options)
