# Copyright (c) mmext contributors. All rights reserved.
"""A harder view of spikes for the student."""
from typing import Sequence

import torch
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.utils.user_error import ConfigError

# Shares of the picture that the erased rectangle may cover.
_AREA = (0.01, 0.05)


@torch.no_grad()
def strong_view(spikes: Tensor,
                chunk: int = 16,
                silence: float = 0.1,
                erase_area: Sequence[float] = _AREA) -> Tensor:
    """Shuffle moments, drop spikes, erase a rectangle.

    The authors' code has this view, commented out. Depth does not move. It
    is :func:`mmext.spike.strong_view` for batches on a device.

    Args:
        spikes (Tensor): (B, T, H, W) in {-1, 1}.
        chunk (int): Moments are shuffled among as many neighbours; 1 leaves
            them. Defaults to 16.
        silence (float): Share of all entries that becomes -1.
            Defaults to 0.1.
        erase_area (Sequence[float]): Smallest and largest share of the picture
            that a rectangle erases (-1) at all moments; (0, 0) for none.
            Defaults to (0.01, 0.05).

    Returns:
        Tensor: A new tensor of the same shape. Random numbers come from
        torch's generator of the device.
    """
    batch, ticks, height, width = spikes.shape
    device = spikes.device
    if chunk > 1:
        # a random number plus the number of the chunk sorts within chunks
        keys = torch.rand(batch, ticks, device=device)
        keys = keys + torch.arange(ticks, device=device) // chunk
        order = keys.argsort(dim=1)
        spikes = spikes[torch.arange(batch, device=device)[:, None], order]
    else:
        spikes = spikes.clone()
    if silence > 0:
        spikes.masked_fill_(
            torch.rand(spikes.shape, device=device) < silence, -1)
    for image in spikes if erase_area[1] > 0 else ():
        area, aspect, top, left = torch.rand(4).tolist()
        area = (erase_area[0] + area *
                (erase_area[1] - erase_area[0])) * height * width
        aspect = 0.3 * (1 / 0.09)**aspect  # 0.3 to 3.3, even on a log scale
        rows = min(height, max(1, round((area * aspect)**0.5)))
        columns = min(width, max(1, round((area / aspect)**0.5)))
        top = int(top * (height - rows + 1))
        left = int(left * (width - columns + 1))
        image[:, top:top + rows, left:left + columns] = -1
    return spikes


@register_depth(MODELS)
class SpikeStrongView(nn.Module):
    """:func:`strong_view` as a part of a config.

    Args:
        chunk (int): Defaults to 16.
        silence (float): Defaults to 0.1.
        erase_area (Sequence[float]): Defaults to (0.01, 0.05).

    Example:
        >>> model = dict(
        ...     type='mmext.CrossDomainAdapter',
        ...     strong_aug=dict(type='mmext.SpikeStrongView', silence=0.05))
    """

    def __init__(self,
                 chunk: int = 16,
                 silence: float = 0.1,
                 erase_area: Sequence[float] = _AREA) -> None:
        super().__init__()
        if chunk < 1 or not 0 <= silence <= 1 or len(erase_area) != 2 or \
                not 0 <= erase_area[0] <= erase_area[1] <= 1:
            raise ConfigError(
                'Expected chunk of at least 1, silence in [0, 1] and '
                'erase_area as two ascending shares in [0, 1], but got '
                f'{chunk}, {silence} and {tuple(erase_area)}.')
        self.options = dict(
            chunk=chunk, silence=silence, erase_area=tuple(erase_area))

    def forward(self, spikes: Tensor) -> Tensor:
        """(B, T, H, W) to the same."""
        return strong_view(spikes, **self.options)
