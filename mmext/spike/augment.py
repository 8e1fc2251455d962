# Copyright (c) mmext contributors. All rights reserved.
"""A strong view of spikes, for consistency training."""
from typing import Tuple

import numpy as np

from mmext.utils.user_error import ConfigError
from .arrays import check_cube


def strong_view(
    spikes: np.ndarray,
    rng,
    chunk: int = 16,
    silence: float = 0.1,
    erase_prob: float = 1.,
    erase_area: Tuple[float, float] = (0.01, 0.05),
    erase_ratio: Tuple[float, float] = (0.3, 3.3)
) -> np.ndarray:
    """Shuffle ticks within chunks, silence entries, erase a rectangle.

    The view that is a comment in the authors' data set class: ticks are
    shuffled inside chunks, a share of all entries is set to "no spike", and
    one rectangle has no spike in any tick. "No spike" is -1 in a signed cube
    (a signed or float kind) and 0 in one of 0 and 1 (uint8, bool).

    Args:
        spikes (np.ndarray): (T, H, W).
        rng: ``np.random`` or a ``RandomState``.
        chunk (int): Ticks that change places with each other; 0 or 1 for
            none. Defaults to 16.
        silence (float): Share of entries to silence. Defaults to 0.1.
        erase_prob (float): Probability of the rectangle. Defaults to 1.
        erase_area (tuple[float, float]): Its share of the picture.
            Defaults to (0.01, 0.05).
        erase_ratio (tuple[float, float]): Its height over its width, drawn
            evenly in the logarithm. Defaults to (0.3, 3.3).

    Returns:
        np.ndarray: A new cube.

    Raises:
        ConfigError: If a share is not within 0 and 1.
    """
    spikes = check_cube(spikes)
    shares = (silence, erase_prob, *erase_area)
    if not all(0 <= share <= 1 for share in shares):
        raise ConfigError('Expected silence, erase_prob and erase_area from '
                          f'0 to 1, but got {shares}.')
    silent = 0 if spikes.dtype.kind in 'bu' else -1
    order = np.arange(len(spikes))
    for begin in range(0, len(spikes), max(chunk, 1)):
        order[begin:begin + chunk] = rng.permutation(order[begin:begin +
                                                           chunk])
    view = spikes[order]
    if silence:
        view[rng.random_sample(view.shape) < silence] = silent
    if rng.random_sample() < erase_prob:
        top, left, height, width = _rectangle(view.shape[1:], rng, erase_area,
                                              erase_ratio)
        view[:, top:top + height, left:left + width] = silent
    return view


def _rectangle(shape: Tuple[int, int], rng, area: Tuple[float, float],
               ratio: Tuple[float, float]) -> Tuple[int, int, int, int]:
    """Top, left, height and width."""
    pixels = rng.uniform(*area) * shape[0] * shape[1]
    tall = np.exp(rng.uniform(*np.log(ratio)))
    height = min(max(int(round(np.sqrt(pixels * tall))), 1), shape[0])
    width = min(max(int(round(np.sqrt(pixels / tall))), 1), shape[1])
    top = rng.randint(0, shape[0] - height + 1)
    left = rng.randint(0, shape[1] - width + 1)
    return top, left, height, width
