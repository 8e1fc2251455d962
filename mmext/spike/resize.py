# Copyright (c) mmext contributors. All rights reserved.
"""Resizing of spikes, which must stay spikes."""
from typing import Any, Tuple

import numpy as np

from mmext.utils.user_error import ConfigError


def nearest_index(length: int, new: int) -> np.ndarray:
    """Which old rows the new ones are: ``floor(i * length / new)``.

    The 'nearest' (not 'nearest-exact') of ``torch.nn.functional.
    interpolate``, in its float32 arithmetic.

    Args:
        length (int): Old number of rows.
        new (int): New number of rows.

    Returns:
        np.ndarray: (new, ) int64.
    """
    scale = np.float32(length) / np.float32(new)
    index = np.floor(np.arange(new, dtype=np.float32) * scale)
    return np.minimum(index.astype(np.int64), length - 1)


def resize_spikes(spikes: Any, size: Tuple[int, int]) -> Any:
    """Resize to the nearest old pixel, see :func:`nearest_index`.

    Args:
        spikes (np.ndarray or Tensor): (..., H, W), of any kind.
        size (tuple[int, int]): New height and width.

    Returns:
        np.ndarray or Tensor: (..., *size), of the same values.

    Raises:
        ConfigError: If the size is not two positive numbers.
    """
    if len(size) != 2 or min(size) < 1:
        raise ConfigError('Expected a positive height and width to resize '
                          f'spikes to, but got {size}.')
    height, width = spikes.shape[-2:]
    if (height, width) == tuple(size):
        return spikes
    rows, columns = nearest_index(height,
                                  size[0]), nearest_index(width, size[1])
    if not isinstance(spikes, np.ndarray):
        import torch
        rows, columns = (
            torch.from_numpy(one).to(spikes.device) for one in (rows, columns))
    return spikes[..., rows, :][..., columns]
