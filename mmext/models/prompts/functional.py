# Copyright (c) mmext contributors. All rights reserved.
"""Equations of the sparse visual domain prompt (SVDP, arXiv 2303.09792).

Pure tensor functions: the cubic-spline resize of an uncertainty map, the
placement of prompt entries on its most uncertain pixels (DPP), the sparse
map that is added to the image, and the momentum of the prompt's EMA (DPU).
"""
import math
from functools import lru_cache
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError

# Pole of the cubic B-spline's inverse filter, and the radius at which its
# impulse response has fallen below float32 resolution (|z|^15 < 3e-9).
_POLE = math.sqrt(3.) - 2.
_RADIUS = 14


def num_prompts(size: Tuple[int, int], rate: float) -> int:
    """The number of prompt entries, ``K = floor(h * w * rate)``.

    Args:
        size (tuple[int, int]): Height and width of the reference view.
        rate (float): Fraction of its pixels that carry an entry, in (0, 1].

    Returns:
        int: K, at least 1.

    Raises:
        ConfigError: If ``rate`` lies outside (0, 1] or yields no entry.
    """
    if not 0 < rate <= 1:
        raise ConfigError(
            f'sparse_rate is the fraction of pixels that carry a prompt, '
            f'expected in (0, 1], but got {rate}.')
    # The rounding guards products such as 0.07 * 100 = 7.000000000000001.
    count = math.floor(round(size[0] * size[1] * rate, 6))
    if count < 1:
        raise ConfigError(
            f'sparse_rate={rate} leaves no prompt entry on a view of '
            f'{size[0]}x{size[1]} pixels; use at least '
            f'{1 / (size[0] * size[1]):.2g}.')
    return count


def _mirror(index: Tensor, n: int) -> Tensor:
    """Fold indices into [0, n) by mirroring without repeating the edge."""
    if n == 1:
        return torch.zeros_like(index)
    index = index.abs() % (2 * (n - 1))
    return torch.where(index >= n, 2 * (n - 1) - index, index)


def _prefilter(x: Tensor) -> Tensor:
    """B-spline coefficients along the first axis (mirror boundary)."""
    n = x.size(0)
    if n == 1:
        return x
    index = _mirror(torch.arange(-_RADIUS, n + _RADIUS, device=x.device), n)
    padded = x.index_select(0, index)
    out = x * math.sqrt(3.)
    for k in range(1, _RADIUS + 1):
        weight = math.sqrt(3.) * _POLE**k
        out.add_(padded[_RADIUS - k:_RADIUS - k + n], alpha=weight)
        out.add_(padded[_RADIUS + k:_RADIUS + k + n], alpha=weight)
    return out


@lru_cache(maxsize=64)
def _taps(n_in: int, n_out: int, device: str) -> Tuple[Tensor, Tensor]:
    """Four source indices and weights for each output sample."""
    step = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.
    pos = torch.arange(n_out, dtype=torch.float64) * step
    base = pos.floor()
    t = pos - base
    weights = torch.stack([(1 - t)**3, 3 * t**3 - 6 * t**2 + 4,
                           -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    # SciPy reads 0 where rounding puts a coordinate past the last sample,
    # which for some sizes blanks the last row or column: kept, because the
    # published placement depends on it.
    weights[:, pos > n_in - 1] = 0
    index = base.long() + torch.arange(-1, 3).unsqueeze(1)
    return (_mirror(index,
                    n_in).to(device), weights.to(device,
                                                 torch.float32).unsqueeze(-1))


def _sample(coeff: Tensor, n_out: int) -> Tensor:
    index, weights = _taps(coeff.size(0), n_out, str(coeff.device))
    out = coeff.index_select(0, index[0]) * weights[0]
    for k in range(1, 4):
        out.addcmul_(coeff.index_select(0, index[k]), weights[k])
    return out


class SplineResizer:
    """Resize one map to several sizes by an end-point-aligned cubic spline.

    Output sample ``i`` interpolates the input at ``i*(n_in-1)/(n_out-1)``,
    which is what ``scipy.ndimage.zoom(order=3)`` computes. The spline
    coefficients are found once and shared by all sizes, and everything stays
    on the map's device.

    Args:
        uncertainty (Tensor): Map of shape (H, W).

    Examples:
        >>> import torch
        >>> from mmext.models.prompts.functional import SplineResizer
        >>> SplineResizer(torch.rand(8, 12))((4, 6)).shape
        torch.Size([4, 6])
    """

    def __init__(self, uncertainty: Tensor) -> None:
        self.map = uncertainty.float()
        self._coeff: Optional[Tensor] = None

    def __call__(self, size: Tuple[int, int]) -> Tensor:
        """Return the map resized to ``size`` = (h, w)."""
        if tuple(size) == tuple(self.map.shape):
            return self.map
        if self._coeff is None:
            rows = _prefilter(self.map)
            self._coeff = _prefilter(rows.t().contiguous()).t().contiguous()
        rows = _sample(self._coeff, size[0])
        return _sample(rows.t().contiguous(), size[1]).t()


def resize_map(uncertainty: Tensor,
               size: Tuple[int, int],
               mode: str = 'spline') -> Tensor:
    """Resize an uncertainty map.

    Args:
        uncertainty (Tensor): Map of shape (H, W).
        size (tuple[int, int]): Height and width wanted.
        mode (str): ``'spline'`` (as published), ``'bilinear'`` or
            ``'area'``. Defaults to ``'spline'``.

    Returns:
        Tensor: Map of shape ``size``.
    """
    if mode == 'spline':
        return SplineResizer(uncertainty)(size)
    if tuple(size) == tuple(uncertainty.shape):
        return uncertainty
    options = dict(align_corners=False) if mode == 'bilinear' else {}
    return F.interpolate(
        uncertainty[None, None].float(), size=size, mode=mode, **options)[0, 0]


def place_prompts(uncertainty: Tensor, count: int) -> Tensor:
    """DPP: the ``count`` most uncertain pixels, in ascending order.

    Entry ``i`` of the prompt belongs to the pixel with the ``i``-th smallest
    uncertainty among the selected ones (rank pairing; arXiv:2303.09792).
    Ties are ordered by flat index, so that the result does not depend on the
    sorting routine.

    Args:
        uncertainty (Tensor): Map of shape (h, w).
        count (int): K; all pixels are taken if there are fewer.

    Returns:
        Tensor: Flat row-major positions, int64, shape (min(K, h*w),).
    """
    flat = uncertainty.reshape(-1)
    count = min(count, flat.numel())
    if count == flat.numel():
        return flat.argsort(stable=True)
    threshold = flat.topk(count, sorted=False).values.min()
    candidates = (flat >= threshold).nonzero().squeeze(1)
    order = flat[candidates].argsort(stable=True)
    return candidates[order[-count:]]


def sparse_map(prompt: Tensor, positions: Tensor, size: Tuple[int,
                                                              int]) -> Tensor:
    """Scatter prompt entries onto an otherwise zero map.

    ``M[:, positions[i]] = P[K - n + i]`` for the ``n`` positions: a view with
    fewer pixels than entries carries the last, most uncertain ones. The
    result is differentiable with respect to ``prompt``.

    Args:
        prompt (Tensor): Entries of shape (K, C, 1, 1), normalised units.
        positions (Tensor): Flat positions from :func:`place_prompts`.
        size (tuple[int, int]): Height and width of the view.

    Returns:
        Tensor: Map of shape (C, h, w).
    """
    values = prompt.flatten(1)[prompt.size(0) - positions.numel():]
    flat = prompt.new_zeros(prompt.size(1), size[0] * size[1])
    return flat.index_copy(1, positions,
                           values.t()).view(prompt.size(1), *size)


def prompt_decay(decay: float,
                 mean_uncertainty: float,
                 scale: float,
                 clamp: bool = True) -> float:
    r"""DPU: the weight that the teacher's prompt keeps in its EMA.

    .. math:: \alpha_P = \alpha - s \cdot \overline{U}

    The more uncertain the image, the faster the teacher's prompt follows the
    student's (Eq. 4-5 of arXiv:2303.09792).

    Args:
        decay (float): alpha, the model's EMA decay.
        mean_uncertainty (float): Mean of the map over all pixels.
        scale (float): s.
        clamp (bool): Keep the result in [0, 1]. Defaults to True.

    Returns:
        float: alpha_P.
    """
    value = decay - scale * mean_uncertainty
    return min(max(value, 0.), 1.) if clamp else value
