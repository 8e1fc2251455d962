# Copyright (c) mmext contributors. All rights reserved.
"""From the map of a network to that of the whole image."""
from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_prediction(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bicubic (``align_corners=False``) to ``size``, in float32.

    Args:
        x (Tensor): Depth or uncertainty (B, C, h, w).
        size (Sequence[int]): Height and width.

    Returns:
        Tensor: (B, C, *size). Bicubic overshoots: depth may be negative.
    """
    if tuple(x.shape[2:]) == tuple(size):
        return x
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(
            x, size=tuple(size), mode='bicubic', align_corners=False)


def paste_crop(one: Tensor, box: Sequence[int], size: Sequence[int],
               outside: float) -> Tensor:
    """Put the map of a crop back into the whole image.

    Args:
        one (Tensor): (1, height, width).
        box (Sequence[int]): Top, left, height and width of the crop.
        size (Sequence[int]): Height and width of the image.
        outside (float): Value of the pixels around the crop.

    Returns:
        Tensor: (1, *size).
    """
    top, left, height, width = (int(number) for number in box)
    if (height, width) == tuple(size):
        return one
    canvas = one.new_full((1, *size), outside)
    canvas[:, top:top + height, left:left + width] = one
    return canvas
