# Copyright (c) mmext contributors. All rights reserved.
"""The distance operator in chunks of torch operations.

Works on any device, in float32 and float64, and holds a few megabytes at a
time (:data:`CHUNK_BYTES`) whatever the layer's size. It is what the compiled
backends are tested against and what serves where none of them can.

A layer is walked in three steps: chunks of the input are unfolded into rows
(windows), rows are compared with weight rows in tiles, and a tile is an array
[rows, outputs, K] of differences.
"""
import math
from typing import Iterator, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Geometry
from .windows import Unfold

# Bytes of one tile of differences: what stays in the cache of a CPU core, or
# what fills a GPU.
CHUNK_BYTES = {'cpu': 2 << 20}
CHUNK_BYTES_ACCELERATOR = 64 << 20
# Bytes of the windows that are unfolded at a time, in tiles.
_WINDOWS = 4
# Exponents that are cheaper as a chain of products.
MAX_INTEGER_P = 16

Grads = Tuple[Optional[Tensor], Optional[Tensor]]


def unavailable(x: Tensor) -> Optional[str]:
    """Why this backend cannot serve a tensor; never."""
    return None


def integer_exponent(p: float) -> int:
    """``p`` if it is an integer with a cheap chain of products, else 0."""
    return int(p) if p == int(p) and 1 <= p <= MAX_INTEGER_P else 0


def smallest(dtype: torch.dtype) -> float:
    """What replaces a zero maximum before a division."""
    return torch.finfo(dtype).tiny


def _budget(x: Tensor) -> int:
    """Numbers that fit a chunk."""
    size = CHUNK_BYTES.get(x.device.type, CHUNK_BYTES_ACCELERATOR)
    return max(size // x.element_size(), 1)


def _windows(x: Tensor, weight: Tensor,
             geometry: Geometry) -> Tuple[Unfold, Tensor]:
    """A walker over the windows, and the weight as [G, Co / G, K]."""
    walker = Unfold(x.shape, weight.shape[2:], geometry, _WINDOWS * _budget(x))
    return walker, weight.flatten(1).unflatten(0, (geometry.groups, -1))


def _tiles(x: Tensor, w: Tensor) -> Iterator[Tuple[slice, slice]]:
    """Tiles of rows [R, K] times outputs [N, K] that fit the budget."""
    cells = max(_budget(x) // w.shape[1], 1)
    outputs = min(cells, w.shape[0])
    rows = max(cells // outputs, 1)
    for r in range(0, x.shape[0], rows):
        for n in range(0, w.shape[0], outputs):
            yield slice(r, r + rows), slice(n, n + outputs)


def _power_(a: Tensor, p: float) -> Tensor:
    """``a ** p`` of numbers that may be overwritten."""
    n = integer_exponent(p)
    if not n:
        return a.pow_(p)
    result = None
    while True:
        if n & 1:
            result = a.clone() if result is None and n > 1 else (
                a if result is None else result.mul_(a))
        n >>= 1
        if not n:
            return result
        a.mul_(a)


def _difference(x: Tensor, w: Tensor) -> Tensor:
    return x.unsqueeze(1) - w


def _finite(x: Tensor, w: Tensor, p: float) -> Tensor:
    """Distances of rows [R, K] to outputs [N, K] at a finite p."""
    a = _difference(x, w).abs_()
    largest = a.amax(-1).clamp_min_(smallest(x.dtype))
    a.div_(largest.unsqueeze(-1))
    return _power_(a, p).sum(-1).pow_(1. / p).mul_(largest)


def _infinite(x: Tensor, w: Tensor,
              need_index: bool) -> Tuple[Tensor, Optional[Tensor]]:
    """Distances at p = inf, and where they are attained."""
    a = _difference(x, w).abs_()
    if not need_index:
        return a.amax(-1), None
    y, index = a.max(-1)
    negative = x.gather(1, index) < w.t().gather(0, index)
    return y, torch.where(negative, ~index, index).int()


def forward(x: Tensor, weight: Tensor, p: float, geometry: Geometry,
            need_index: bool) -> Tuple[Tensor, Optional[Tensor]]:
    """Distances of all windows to all weight rows.

    Args:
        x (Tensor): Input, [B, Ci, H, W].
        weight (Tensor): Weight, [Co, Ci / G, kh, kw].
        p (float): Exponent, may be infinite.
        geometry (Geometry): Stride, padding, dilation and groups.
        need_index (bool): Whether to say, at p = inf, where the distance is
            attained.

    Returns:
        tuple[Tensor, Tensor or None]: Distances [B, Co, Ho, Wo], and int32
        positions of the first maximal difference in the flattened weight
        row, ``~position`` where it is negative.
    """
    walker, rows = _windows(x, weight, geometry)
    y = x.new_empty(geometry.output_shape(x, weight))
    infinite = math.isinf(p)
    index = y.new_empty(
        y.shape, dtype=torch.int32) if infinite and need_index else None
    for chunk in walker.chunks():
        windows = walker.gather(x, *chunk)
        out = windows.new_empty(*windows.shape[:2], rows.shape[1])
        where = None if index is None else out.new_empty(
            out.shape, dtype=torch.int32)
        for g in range(geometry.groups):
            for r, n in _tiles(windows[g], rows[g]):
                part = windows[g, r], rows[g, n]
                if not infinite:
                    out[g, r, n] = _finite(*part, p)
                    continue
                out[g, r, n], found = _infinite(*part, index is not None)
                if where is not None:
                    where[g, r, n] = found
        walker.store(y, out, *chunk)
        if where is not None:
            walker.store(index, where, *chunk)
    return y, index


def _slope(x: Tensor, w: Tensor, y: Tensor, p: float) -> Tensor:
    """Derivatives of distances [R, N] by the rows' entries, [R, N, K].

    ``(|d| / y) ** (p - 1) * sign(d)``, and 0 where d is.
    """
    ratio = _difference(x, w)
    ratio.div_(y.clamp_min(smallest(y.dtype)).unsqueeze(-1))
    if p > 1 and integer_exponent(p) and p % 2 == 0:
        return _power_(ratio, p - 1)
    size = _power_(ratio.abs(), p -
                   1) if p > 1 else ratio.abs().pow_(p - 1).masked_fill_(
                       ratio == 0, 0.)
    return torch.copysign(size, ratio, out=size)


def backward_finite(grad: Tensor, x: Tensor, weight: Tensor, y: Tensor,
                    p: float, geometry: Geometry, need_x: bool, need_w: bool,
                    deterministic: bool) -> Grads:
    """Gradients at a finite p.

    Args:
        grad (Tensor): Gradient of the output, [B, Co, Ho, Wo].
        x (Tensor): Input.
        weight (Tensor): Weight.
        y (Tensor): What :func:`forward` returned.
        p (float): Exponent.
        geometry (Geometry): Stride, padding, dilation and groups.
        need_x (bool): Whether the input's gradient is wanted.
        need_w (bool): Whether the weight's gradient is wanted.
        deterministic (bool): Sums are always in the same order here.

    Returns:
        tuple[Tensor or None, Tensor or None]: Gradients of the input and of
        the weight.
    """
    walker, rows = _windows(x, weight, geometry)
    grad_x = torch.zeros_like(x) if need_x else None
    grad_w = torch.zeros_like(weight) if need_w else None
    grad_rows = grad_w.view(rows.shape) if need_w else None
    for chunk in walker.chunks():
        windows = walker.gather(x, *chunk)
        outputs = walker.outputs(y, *chunk)
        upstream = walker.outputs(grad, *chunk)
        back = torch.zeros_like(windows) if need_x else None
        for g in range(geometry.groups):
            for r, n in _tiles(windows[g], rows[g]):
                slope = _slope(windows[g, r], rows[g, n], outputs[g, r, n], p)
                slope.mul_(upstream[g, r, n].unsqueeze(-1))
                if need_x:
                    back[g, r] += slope.sum(1)
                if need_w:
                    grad_rows[g, n] -= slope.sum(0)
        if need_x:
            walker.scatter(grad_x, back, *chunk)
    return grad_x, grad_w


def _accumulate(target: Tensor, where: Tensor, values: Tensor,
                deterministic: bool) -> None:
    """Add values to entries of a flat target; entries may repeat."""
    where, values = where.flatten(), values.flatten()
    if deterministic and target.is_cuda:
        # Sorts the entries, where a scatter would race.
        target.index_put_((where, ), values, accumulate=True)
    else:
        target.scatter_add_(0, where, values)


def backward_inf(grad: Tensor, index: Tensor, x_shape: Sequence[int],
                 weight_shape: Sequence[int], geometry: Geometry, need_x: bool,
                 need_w: bool, deterministic: bool) -> Grads:
    """Gradients at p = inf: all of it goes where the distance is attained.

    Args:
        grad (Tensor): Gradient of the output, [B, Co, Ho, Wo].
        index (Tensor): What :func:`forward` returned.
        x_shape (Sequence[int]): Shape of the input.
        weight_shape (Sequence[int]): Shape of the weight.
        geometry (Geometry): Stride, padding, dilation and groups.
        need_x (bool): Whether the input's gradient is wanted.
        need_w (bool): Whether the weight's gradient is wanted.
        deterministic (bool): Whether to add in the same order every time.

    Returns:
        tuple[Tensor or None, Tensor or None]: Gradients of the input and of
        the weight.
    """
    grad_x = grad.new_zeros(x_shape) if need_x else None
    grad_w = grad.new_zeros(weight_shape) if need_w else None
    images = max(_WINDOWS * _budget(grad) // grad[0].numel(), 1)
    outputs = torch.arange(grad.shape[1], device=grad.device).view(1, -1, 1, 1)
    for b in range(0, grad.shape[0], images):
        batch = slice(b, b + images)
        k = index[batch].long()
        values = torch.where(k < 0, -grad[batch], grad[batch])
        k = torch.where(k < 0, ~k, k)
        if need_w:
            row = math.prod(weight_shape[1:])
            _accumulate(
                grad_w.view(-1), outputs * row + k, -values, deterministic)
        if need_x:
            _spread(grad_x[batch], values, k, outputs, weight_shape, geometry,
                    deterministic)
    return grad_x, grad_w


def _spread(grad_x: Tensor, values: Tensor, k: Tensor, outputs: Tensor,
            weight_shape: Sequence[int], geometry: Geometry,
            deterministic: bool) -> None:
    """Add values to the pixels under position k of their windows."""
    count, channels, kh, kw = weight_shape
    area = kh * kw
    channel = k.div(area, rounding_mode='floor')
    tap = k - channel * area
    channel += outputs.div(
        count // geometry.groups, rounding_mode='floor') * channels
    where = torch.arange(len(values), device=k.device).view(-1, 1, 1, 1)
    where = where * grad_x.shape[1] + channel
    inside = torch.ones_like(k, dtype=torch.bool)
    taps = tap.div(kw, rounding_mode='floor'), tap % kw
    for axis in (0, 1):
        shape = [1, 1, 1, 1]
        shape[2 + axis] = -1
        start = torch.arange(k.shape[2 + axis], device=k.device).view(shape)
        pixel = (
            start * geometry.stride[axis] - geometry.padding[axis] +
            taps[axis] * geometry.dilation[axis])
        inside &= (pixel >= 0) & (pixel < grad_x.shape[2 + axis])
        where = where * grad_x.shape[2 + axis] + pixel
    _accumulate(
        grad_x.view(-1), torch.where(inside, where, 0),
        torch.where(inside, values, 0.), deterministic)


def bounds(lower: Tensor, upper: Tensor, weight: Tensor,
           geometry: Geometry) -> Tuple[Tensor, Tensor]:
    """The exact range of the distances at p = inf over a box.

    Args:
        lower (Tensor): Lower ends, [B, Ci, H, W].
        upper (Tensor): Upper ends.
        weight (Tensor): Weight, [Co, Ci / G, kh, kw].
        geometry (Geometry): Stride, padding, dilation and groups.

    Returns:
        tuple[Tensor, Tensor]: Lower and upper ends, [B, Co, Ho, Wo].
    """
    walker, rows = _windows(lower, weight, geometry)
    shape = geometry.output_shape(lower, weight)
    out = lower.new_empty(shape), lower.new_empty(shape)
    for chunk in walker.chunks():
        low = walker.gather(lower, *chunk)
        high = walker.gather(upper, *chunk)
        found = [low.new_empty(*low.shape[:2], rows.shape[1]) for _ in out]
        for g in range(geometry.groups):
            for r, n in _tiles(low[g], rows[g]):
                below = _difference(low[g, r], rows[g, n])
                above = _difference(high[g, r], rows[g, n])
                found[1][g, r, n] = torch.maximum(above, -below).amax(-1)
                found[0][g, r, n] = torch.maximum(
                    below, above.neg_()).amax(-1).clamp_min_(0.)
        for whole, part in zip(out, found):
            walker.store(whole, part, *chunk)
    return out


def direct(x: Tensor, weight: Tensor, p: float, geometry: Geometry) -> Tensor:
    """The operator as one expression, for exporters and tracers.

    It holds all differences at a time.

    Args:
        x (Tensor): Input, [B, Ci, H, W].
        weight (Tensor): Weight, [Co, Ci / G, kh, kw].
        p (float): Exponent, may be infinite.
        geometry (Geometry): Stride, padding, dilation and groups.

    Returns:
        Tensor: Distances, [B, Co, Ho, Wo].
    """
    out = geometry.output_size(x.shape[2:], weight.shape[2:])
    if geometry.is_pointwise(weight.shape[2:]):
        windows = x.flatten(2)
    else:
        windows = F.unfold(
            x,
            tuple(weight.shape[2:]),
            dilation=geometry.dilation,
            padding=geometry.padding,
            stride=geometry.stride)
    # [B, G, 1, K, L] against [G, Co / G, K, 1]
    windows = windows.unflatten(1, (geometry.groups, 1, -1))
    rows = weight.flatten(1).unflatten(0, (geometry.groups, -1)).unsqueeze(-1)
    a = (windows - rows).abs()
    y = a.amax(-2)
    if not math.isinf(p):
        y = y.clamp_min(smallest(x.dtype))
        y = y * (a / y.unsqueeze(-2)).pow(p).sum(-2).pow(1. / p)
    return y.flatten(1, 2).unflatten(2, out)
