# Copyright (c) mmext contributors. All rights reserved.
"""The SortNet neuron: a fixed average of the largest differences."""
import math
from typing import Any, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .functional import lp_distance
from .layers import LpDistConv2d, LpDistLinear

# Cells |x - w| formed at a time: 32 MiB in float32.
_CELLS = 1 << 23


def sort_coefficients(rho: float, count: int) -> Tensor:
    """rho (1 - rho)^(k - 1) for k = 1 ... count, made to sum to one."""
    steps = torch.arange(count, dtype=torch.float64)
    values = rho * (1. - rho)**steps
    return values / values.sum()


def _grouped(x: Tensor, weight: Tensor, groups: int) -> Tuple[Tensor, Tensor]:
    return (x.reshape(-1, groups, 1, weight.shape[1]),
            weight.reshape(1, groups, -1, weight.shape[1]))


def _chunks(x: Tensor, weight: Tensor) -> int:
    return max(1, _CELLS // max(1, weight.numel()))


@torch.no_grad()
def _largest(x: Tensor, weight: Tensor, groups: int, count: int) -> Tensor:
    """Indices of the largest differences, (N, G, Co/G, count)."""
    found = []
    for part in x.split(_chunks(x, weight)):
        a, b = _grouped(part, weight, groups)
        found.append((a - b).abs().topk(count, dim=-1).indices)
    return torch.cat(found)


def sorted_distance(x: Tensor,
                    weight: Tensor,
                    rho: float,
                    truncate: int = 10,
                    groups: int = 1) -> Tensor:
    r"""Average of the largest differences with geometric weights.

    .. math:: y_o = \sum_{k=1}^{T} c_k |x - w_o|_{(k)},\quad
              c_k \propto \rho (1 - \rho)^{k - 1},\quad \sum_k c_k = 1

    with :math:`|\cdot|_{(k)}` the k-th largest and T = min(truncate, n)
    (arXiv:2210.01787). A convex combination of order statistics,
    hence 1-Lipschitz for l_inf; ``rho = 1`` is the l_inf distance.

    Args:
        x (Tensor): (..., Ci).
        weight (Tensor): (Co, Ci / groups).
        rho (float): Keep probability, in (0, 1].
        truncate (int): Largest differences that count. Defaults to 10.
        groups (int): Groups of channels. Defaults to 1.

    Returns:
        Tensor: (..., Co).
    """
    width, outputs = weight.shape[1], weight.shape[0]
    count = min(truncate, width)
    flat = x.reshape(-1, x.shape[-1])
    index = _largest(flat, weight, groups, count)
    rows = torch.arange(
        flat.shape[0] * groups, device=x.device).view(-1, groups, 1, 1)
    units = torch.arange(outputs, device=x.device).view(1, groups, -1, 1)
    # Only the chosen cells take part in autograd; a gather from the expanded
    # difference would fill a buffer of all cells in the backward pass.
    chosen = flat.reshape(-1)[rows * width + index] - \
        weight.reshape(-1)[units * width + index]
    scale = sort_coefficients(rho, count).to(chosen)
    return (chosen.abs() * scale).sum(-1).reshape(*x.shape[:-1], outputs)


def sorted_distance_bounds(lower: Tensor,
                           upper: Tensor,
                           weight: Tensor,
                           rho: float,
                           truncate: int = 10,
                           groups: int = 1) -> Tuple[Tensor, Tensor]:
    """Interval of :func:`sorted_distance` over a box.

    The neuron grows with each ``|x_i - w_i|``, so its extremes lie at the
    ends of these differences' exact intervals.

    Args:
        lower (Tensor): (..., Ci).
        upper (Tensor): (..., Ci).
        weight (Tensor): (Co, Ci / groups).
        rho (float): Keep probability.
        truncate (int): Largest differences that count. Defaults to 10.
        groups (int): Groups of channels. Defaults to 1.

    Returns:
        tuple[Tensor, Tensor]: Lower and upper end, (..., Co) each.
    """
    outputs = weight.shape[0]
    count = min(truncate, weight.shape[1])
    scale = sort_coefficients(rho, count).to(lower)
    shape = (*lower.shape[:-1], outputs)
    ends = [], []
    step = _chunks(lower, weight)
    pairs = zip(
        lower.reshape(-1, lower.shape[-1]).split(step),
        upper.reshape(-1, upper.shape[-1]).split(step))
    for low, high in pairs:
        a, w = _grouped(low, weight, groups)
        b, _ = _grouped(high, weight, groups)
        # max(l - w, w - u, 0) is the distance of w from [l, u].
        near = torch.maximum(a - w, w - b).clamp_(min=0.)
        far = torch.maximum((a - w).abs(), (b - w).abs())
        for end, value in zip(ends, (near, far)):
            top = value.topk(count, dim=-1).values
            end.append((top * scale).sum(-1).flatten(1))
    return tuple(torch.cat(end).reshape(shape) for end in ends)


class _SortMixin:
    """What the vector and the image layer share."""

    def _init_sort(self, rho: float, truncate: int, sub_batch: int) -> None:
        if not 0. < rho <= 1.:
            raise ConfigError('rho, the probability of keeping a coordinate, '
                              f'lies in (0, 1], but got {rho!r}.')
        if truncate < 1 or sub_batch < 1:
            raise ConfigError('truncate and sub_batch are at least 1, but got '
                              f'{truncate!r} and {sub_batch!r}.')
        self.rho = float(rho)
        self.truncate = truncate
        self.sub_batch = sub_batch

    @property
    def roundings(self) -> float:
        """float: One difference, a product, a sum of ``T`` terms."""
        flat = self.weight[0].numel()
        return 3. + min(self.truncate, flat)

    def _keep(self, width: int, device: torch.device) -> Optional[Tensor]:
        """Random coordinates, at least one; None for all of them."""
        if self.rho == 1.:
            return None
        keep = (torch.rand(width, device=device) < self.rho).nonzero()[:, 0]
        return keep if len(keep) else torch.randint(
            width, (1, ), device=device)

    def _rows(self, x: Tensor, per_sample: int) -> Tensor:
        """Train: subset distance. Eval: sorted distance. x (N, Ci)."""
        weight = self.weight.flatten(1)
        if not self.training:
            return sorted_distance(x, weight, self.rho, self.truncate,
                                   self.groups)
        outs = []
        for part in x.split(max(1, self.sub_batch * per_sample)):
            keep = self._keep(weight.shape[1], x.device)
            if keep is None:
                outs.append(
                    lp_distance(part, weight, self.p, groups=self.groups))
                continue
            kept = part.unflatten(1, (self.groups, weight.shape[1]))
            kept = kept[..., keep].flatten(1)
            outs.append(
                lp_distance(kept, weight[:, keep], self.p, groups=self.groups))
        return torch.cat(outs)

    def _row_bounds(self, lower: Tensor,
                    upper: Tensor) -> Tuple[Tensor, Tensor]:
        return sorted_distance_bounds(lower, upper, self.weight.flatten(1),
                                      self.rho, self.truncate, self.groups)


class SortDistLinear(_SortMixin, LpDistLinear):
    """A layer of SortNet neurons on vectors.

    In evaluation :func:`sorted_distance`, whatever ``p``; in training the
    l_p distance over a random subset of the coordinates, each kept with
    probability ``rho`` and shared by ``sub_batch`` samples, whose mean at
    p = inf the sorted form is.

    Args:
        in_features (int): Inputs.
        out_features (int): Outputs.
        rho (float): Keep probability. Defaults to 0.85.
        truncate (int): Largest differences that count. Defaults to 10.
        sub_batch (int): Samples that share a subset. Defaults to 32.
        **kwargs: As :class:`LpDistLinear`.

    Config example: ``dict(type='mmext.LipMLP', sort=dict(rho=0.85))``.
    """

    def __init__(self,
                 in_features: int,
                 out_features: int,
                 rho: float = 0.85,
                 truncate: int = 10,
                 sub_batch: int = 32,
                 **kwargs: Any) -> None:
        super().__init__(in_features, out_features, **kwargs)
        self._init_sort(rho, truncate, sub_batch)

    def distance(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        rows = x.reshape(-1, x.shape[-1])
        per_sample = len(rows) // max(1, len(x))
        return self._rows(rows, per_sample).reshape(*x.shape[:-1],
                                                    self.out_features)

    def distance_bounds(self, lower: Tensor,
                        upper: Tensor) -> Tuple[Tensor, Tensor]:
        """Interval of each neuron over a box."""
        return self._row_bounds(lower, upper)


class SortDistConv2d(_SortMixin, LpDistConv2d):
    """SortNet neurons slid over images; windows are formed by unfolding.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the window.
        rho (float): Keep probability. Defaults to 0.85.
        truncate (int): Largest differences that count. Defaults to 10.
        sub_batch (int): Images that share a subset. Defaults to 32.
        **kwargs: As :class:`LpDistConv2d`.

    Config example: ``dict(type='mmext.LipLeNet', sort=dict(rho=0.85))``.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int,
                 rho: float = 0.85,
                 truncate: int = 10,
                 sub_batch: int = 32,
                 **kwargs: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)
        self._init_sort(rho, truncate, sub_batch)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B * positions, C * kernel_size^2)."""
        columns = F.unfold(x, self.kernel_size, self.dilation, self.padding,
                           self.stride)
        return columns.transpose(1, 2).flatten(0, 1)

    def _images(self, rows: Tensor, like: Tensor) -> Tensor:
        """(B * positions, Co) to (B, Co, H', W')."""
        reach = self.dilation * (self.kernel_size - 1) + 1
        side = [(n + 2 * self.padding - reach) // self.stride + 1
                for n in like.shape[2:]]
        rows = rows.reshape(len(like), math.prod(side), self.out_channels)
        return rows.transpose(1, 2).unflatten(2, side)

    def distance(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H', W')."""
        rows = self._windows(x)
        return self._images(self._rows(rows, len(rows) // max(1, len(x))), x)

    def distance_bounds(self, lower: Tensor,
                        upper: Tensor) -> Tuple[Tensor, Tensor]:
        """Interval of each neuron over a box."""
        ends = self._row_bounds(self._windows(lower), self._windows(upper))
        return tuple(self._images(end, lower) for end in ends)


def distance_linear(sort: Union[None, dict], *args: Any,
                    **kwargs: Any) -> LpDistLinear:
    """A :class:`LpDistLinear`, or with ``sort`` a :class:`SortDistLinear`.

    Args:
        sort (dict | None): Options ``rho``, ``truncate``, ``sub_batch``.
        *args: Of the layer.
        **kwargs: Of the layer.

    Returns:
        LpDistLinear: The layer.
    """
    if sort is None:
        return LpDistLinear(*args, **kwargs)
    return SortDistLinear(*args, **sort, **kwargs)


def distance_conv2d(sort: Union[None, dict], *args: Any,
                    **kwargs: Any) -> LpDistConv2d:
    """A :class:`LpDistConv2d`, or with ``sort`` a :class:`SortDistConv2d`.

    Args:
        sort (dict | None): Options ``rho``, ``truncate``, ``sub_batch``.
        *args: Of the layer.
        **kwargs: Of the layer.

    Returns:
        LpDistConv2d: The layer.
    """
    if sort is None:
        return LpDistConv2d(*args, **kwargs)
    return SortDistConv2d(*args, **sort, **kwargs)
