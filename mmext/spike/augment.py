# Copyright (c) mmext contributors. All rights reserved.
"""A strong view of spikes, for consistency training."""
import inspect
from typing import Any, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import Tensor

from mmext.utils.arguments import check_names, is_count, is_number, is_share
from mmext.utils.user_error import ConfigError
from .arrays import check_cube


@torch.no_grad()
def strong_view(
    spikes: Union[np.ndarray, Tensor],
    rng=None,
    chunk: int = 16,
    silence: float = 0.1,
    erase_prob: float = 1.,
    erase_area: Sequence[float] = (0.01, 0.05),
    erase_ratio: Sequence[float] = (0.3, 3.3)
) -> Union[np.ndarray, Tensor]:
    """Shuffle ticks within chunks, silence entries, erase a rectangle.

    The view that is a comment in the authors' data set class: ticks are
    shuffled inside chunks, a share of all entries is set to "no spike", and
    one rectangle has no spike in any tick. "No spike" is -1 in signed spikes
    (a signed or float kind) and 0 in those of 0 and 1 (uint8, bool). Depth
    does not move.

    Args:
        spikes (np.ndarray | Tensor): An array (T, H, W), or a batch
            (B, T, H, W) on any device.
        rng: ``np.random`` or a ``RandomState``. Defaults to None, torch's
            generator of the device.
        chunk (int): Ticks that change places with each other; 0 or 1 for
            none. Defaults to 16.
        silence (float): Share of entries to silence. Defaults to 0.1.
        erase_prob (float): Probability of the rectangle. Defaults to 1.
        erase_area (Sequence[float]): Its least and largest share of the
            picture; (0, 0) for none. Defaults to (0.01, 0.05).
        erase_ratio (Sequence[float]): Its height over its width, drawn
            evenly in the logarithm. Defaults to (0.3, 3.3).

    Returns:
        np.ndarray | Tensor: A new array or batch of the same shape and type.

    Raises:
        ConfigError: If a share is not within 0 and 1, a range not ascending,
            or the chunk negative.
    """
    _check(chunk, (silence, erase_prob), erase_area, erase_ratio)
    is_batch = isinstance(spikes, Tensor)
    # A copy, as torch takes neither flipped nor read-only arrays.
    batch = spikes if is_batch else torch.from_numpy(
        np.array(check_cube(spikes)))[None]
    view = _shuffled(batch, rng, chunk)
    silent = 0 if view.dtype in (torch.uint8, torch.bool) else -1
    if silence > 0:
        view.masked_fill_(
            _uniform(view.shape, rng, view.device) < silence, silent)
    for cube in view if erase_area[1] > 0 else ():
        if erase_prob == 1 or _uniform((), rng) < erase_prob:
            rows, columns = _rectangle(cube.shape[1:], rng, erase_area,
                                       erase_ratio)
            cube[:, rows, columns] = silent
    return view if is_batch else view[0].numpy()


def check_view(options: Mapping[str, Any], where: str) -> None:
    """Refuse options that :func:`strong_view` does not take.

    Args:
        options (Mapping[str, Any]): Its arguments, but spikes and rng.
        where (str): What they were given to, for the message.

    Raises:
        ConfigError: If one of them is unknown or out of range.
    """
    known = list(inspect.signature(strong_view).parameters)[2:]
    check_names(options, known, where)
    strong_view(
        np.zeros((2, 8, 8), np.uint8), np.random.RandomState(0), **options)


def _check(chunk: int, shares: Sequence[float], area: Sequence[float],
           ratio: Sequence[float]) -> None:
    if not is_count(chunk, 0):
        raise ConfigError('Expected a chunk of 0 or more ticks, but got '
                          f'{chunk!r}.')
    if not all(map(is_share, shares)) or not _is_range(area) or \
            not all(map(is_share, area)):
        raise ConfigError(
            'Expected silence, erase_prob and erase_area from 0 to 1, and '
            'erase_area as two ascending shares, but got '
            f'{(*shares, area)}.')
    if not _is_range(ratio) or not ratio[0] > 0:
        raise ConfigError('Expected erase_ratio as two ascending numbers '
                          f'above 0, but got {ratio!r}.')


def _is_range(pair: Any) -> bool:
    return isinstance(pair, Sequence) and len(pair) == 2 and all(
        map(is_number, pair)) and pair[0] <= pair[1]


def _uniform(shape: Sequence[int],
             rng,
             device: Optional[torch.device] = None) -> Tensor:
    """Numbers in [0, 1)."""
    if rng is None:
        return torch.rand(shape, device=device)
    return torch.as_tensor(rng.random_sample(shape), device=device)


def _shuffled(spikes: Tensor, rng, chunk: int) -> Tensor:
    """A copy with ticks in another order within their chunks."""
    if chunk <= 1:
        return spikes.clone()
    batch, ticks = spikes.shape[:2]
    # A random number plus the number of the chunk sorts within chunks.
    keys = _uniform((batch, ticks), rng, spikes.device)
    keys = keys + torch.arange(ticks, device=spikes.device) // chunk
    images = torch.arange(batch, device=spikes.device)
    return spikes[images[:, None], keys.argsort(dim=1)]


def _rectangle(shape: Sequence[int], rng, area: Sequence[float],
               ratio: Sequence[float]) -> Tuple[slice, slice]:
    """Rows and columns."""
    height, width = shape
    share, tall, top, left = _uniform((4, ), rng).tolist()
    pixels = (area[0] + share * (area[1] - area[0])) * height * width
    tall = ratio[0] * (ratio[1] / ratio[0])**tall
    rows = min(height, max(1, round((pixels * tall)**0.5)))
    columns = min(width, max(1, round((pixels / tall)**0.5)))
    top = int(top * (height - rows + 1))
    left = int(left * (width - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)
