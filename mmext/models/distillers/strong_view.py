# Copyright (c) mmext contributors. All rights reserved.
"""A harder view of spikes for the student."""
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.spike import strong_view
from mmext.spike.augment import check_view


@register_depth(MODELS)
class SpikeStrongView(nn.Module):
    """:func:`~mmext.spike.strong_view` as a part of a model's config.

    Random numbers come from torch's generator of the device.

    Args:
        **options: Arguments of :func:`~mmext.spike.strong_view`, such as
            chunk, silence and erase_area.

    Raises:
        ConfigError: If one of them is unknown or out of range.

    Example:
        >>> model = dict(
        ...     type='mmext.CrossDomainAdapter',
        ...     strong_aug=dict(type='mmext.SpikeStrongView', silence=0.05))
    """

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options
        # A misspelt or impossible option stops here, not in the first step.
        check_view(options, 'SpikeStrongView')

    def forward(self, spikes: Tensor) -> Tensor:
        """(B, T, H, W) of -1 and 1 to the same."""
        return strong_view(spikes, **self.options)
