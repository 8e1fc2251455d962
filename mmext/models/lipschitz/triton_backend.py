# Copyright (c) mmext contributors. All rights reserved.
"""The distance operator in Triton, for CUDA devices.

The kernels are in :mod:`.triton_kernels` (p = inf) and
:mod:`.triton_power_kernels` (finite p, intervals). This file offers them
under the interface of :mod:`.reference`.

Under ``TRITON_INTERPRET=1``, set before Triton is imported, the same kernels
run on a CPU: slowly, for tests.

Measured on an H100 at 512 x 5120 x 5120, in cells (one difference x - w) per
clock of 1.98 GHz and multiprocessor, beside what the units allow for the plain
method and what the machine instructions of the inner loop would allow if
nothing ever waited (``tools/benchmarks/lp_distance_gpu.py`` prints all):

==================  ========  =====  =====  ============
pass                measured  units  loops  instructions
==================  ========  =====  =====  ============
p = inf             37        64     57     2.2
p = inf with index  30        43     54     2.4
bounds              11        18     15     8.7
p = 8               22        18     28     4.5
p = 8, gradients    10        16     13     10.0
p = 9.5             6.6       8      7      2.5 and 6.5
p = 9.5, gradients  6.6       8      8      10.0
p = 100             8.5       8      11     2.5 and 9.6
p = 100, gradients  7.2       8      10     13.0
==================  ========  =====  =====  ============

An index per block, sums without a normaliser and the series for the logarithm
undercut the plain method. Deterministic gradients take one sweep each.

Left to tune: convolutions at p = inf and their fused gradients at p = 8 (2.1
to 2.4 times the units' limit), where addresses of pixels take what the cells
leave; small layers (0.1 to 0.7 ms: launches, and too few programs); for p of
several hundreds, a branch around blocks of cells that round to nothing; groups
of a few channels, which leave most of a tile idle.
"""
import functools
import math
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import reference
from .geometry import Geometry
from .reference import Grads, integer_exponent, smallest

try:
    import triton

    from . import triton_launch
    from .triton_kernels import GENERAL, NEAR_ONE
except ImportError:  # no Triton for this platform
    triton = None

# Exponents from which log2(r) is a series around r = 1.
NEAR_ONE_P = 32.
# Distances below have no gradient at a large or fractional p.
SMALLEST_Y = 1e-30
# Programs that fill a large GPU twice, and the fewest terms of a sum that are
# worth a program. Sums are split by these alone, not by the device, so that
# gradients are the same everywhere.
PROGRAMS = 264
MIN_TERMS = 256
# A fused sweep over a padded image is worth up to this many times its pixels.
PADDED = 1.5


def unavailable(x: Tensor) -> Optional[str]:
    """Why this backend cannot serve a tensor.

    Args:
        x (Tensor): Input or weight.

    Returns:
        str or None: One sentence; None if it can.
    """
    if triton is None:
        return 'Triton is not installed.'
    if x.dtype != torch.float32:
        return f'it computes in float32, not in {x.dtype}.'
    if x[:1].numel() >= 2**31:
        return 'its kernels need images of fewer than 2^31 numbers.'
    if triton_launch.interpreted():
        return None if x.device.type == 'cpu' else (
            'TRITON_INTERPRET is set: kernels run on a CPU.')
    if not x.is_cuda:
        return 'it needs a CUDA device.'
    if torch.cuda.get_device_capability(x.device) < (7, 0):
        return 'Triton needs a GPU of compute capability 7.0 or newer.'
    return None


class _Layer(NamedTuple):
    """Sizes of one operator, as the kernels name them."""
    B: int
    C: int
    H: int
    W: int
    G: int
    CO: int
    channels: int
    taps: int
    HO: int
    WO: int
    constants: Dict[str, int]

    @classmethod
    def of(cls, x_shape: Sequence[int], weight_shape: Sequence[int],
           geometry: Geometry) -> '_Layer':
        count, channels, *window = weight_shape
        out = geometry.output_size(x_shape[2:], window)
        names = ('KH', 'KW'), ('SH', 'SW'), ('PH', 'PW'), ('DH', 'DW')
        values = window, geometry.stride, geometry.padding, geometry.dilation
        constants = {
            name: int(v)
            for pair, two in zip(names, values)
            for name, v in zip(pair, two)
        }
        return cls(*x_shape, geometry.groups, count, channels,
                   math.prod(window), *out, constants)

    @property
    def conv(self) -> bool:
        """Whether there is more than one pixel or tap anywhere."""
        return self.H * self.W * self.taps * self.HO * self.WO > 1

    @property
    def N(self) -> int:
        return self.CO // self.G

    @property
    def K(self) -> int:
        return self.channels * self.taps

    @property
    def M(self) -> int:
        return self.B * self.HO * self.WO

    @property
    def sizes(self) -> Tuple[int, ...]:
        return self.K, self.C, self.H, self.W, self.HO, self.WO

    @property
    def padded(self) -> int:
        """Pixels of a padded image."""
        sizes = self.constants
        return (self.H + 2 * sizes['PH']) * (self.W + 2 * sizes['PW'])

    @property
    def fits_fused(self) -> bool:
        return self.padded <= PADDED * self.H * self.W

    def windows(self, x: Tensor) -> Tensor:
        """Input for the forward kernels; a linear layer's is [G, K, B]."""
        if self.conv:
            return x
        return x.view(self.B, self.G, self.K).permute(1, 2, 0).contiguous()

    def columns(self, weight: Tensor) -> Tensor:
        """Weight for the forward kernels, [G, K, N]."""
        rows = weight.view(self.G, self.N, self.K)
        return rows.transpose(1, 2).contiguous()


def _forward(name: str, layer: _Layer, tensors: Sequence[Optional[Tensor]],
             *before: float, **constants: int) -> None:
    triton_launch.run(
        name,
        tensors, (*before, layer.M, layer.N, *layer.sizes),
        layer.M,
        layer.N, (layer.G, ),
        **constants,
        **layer.constants,
        CONV=layer.conv)


def _power_kind(p: float) -> int:
    """How kernels take powers; see ``_power`` there."""
    return integer_exponent(p) or (NEAR_ONE if p >= NEAR_ONE_P else GENERAL)


def forward(x: Tensor, weight: Tensor, p: float, geometry: Geometry,
            need_index: bool) -> Tuple[Tensor, Optional[Tensor]]:
    """Distances of all windows to all weight rows; see :mod:`.reference`."""
    layer = _Layer.of(x.shape, weight.shape, geometry)
    y = x.new_empty(layer.B, layer.CO, layer.HO, layer.WO)
    operands = layer.windows(x), layer.columns(weight)
    if not math.isinf(p):
        kind = _power_kind(p)
        integer = kind <= reference.MAX_INTEGER_P
        if integer:
            _forward('power_forward', layer, (*operands, y), p, POW=kind)
        _forward(
            'power_stable',
            layer, (*operands, y),
            p,
            POW=kind,
            REPAIR=integer,
            tune=not integer)
        return y, None
    index = torch.empty_like(y, dtype=torch.int32) if need_index else None
    _forward(
        'inf_forward', layer, (*operands, y, index), NEED_BLOCK=need_index)
    if need_index:
        _elementwise(
            'inf_resolve',
            layer, (x, weight, y, index),
            KB=triton_launch.block())
    return y, index


def _elementwise(name: str, layer: _Layer, tensors: Sequence[Optional[Tensor]],
                 **constants: int) -> None:
    """Launch a kernel over the outputs."""
    total = layer.M * layer.CO
    triton_launch.run_flat(name, tensors, total, (layer.CO, *layer.sizes),
                           **constants, **layer.constants)


def backward_inf(grad: Tensor, index: Tensor, x_shape: Sequence[int],
                 weight_shape: Sequence[int], geometry: Geometry, need_x: bool,
                 need_w: bool, deterministic: bool) -> Grads:
    """Gradients at p = inf; see :mod:`.reference`.

    One atomic addition per output and gradient; sums of entries that several
    outputs reach then depend on the order of arrival. ``deterministic``
    sorts the entries instead (the reference path on the same device).
    """
    if deterministic:
        return reference.backward_inf(grad, index, x_shape, weight_shape,
                                      geometry, need_x, need_w, True)
    layer = _Layer.of(x_shape, weight_shape, geometry)
    grad_x = grad.new_zeros(x_shape) if need_x else None
    grad_w = grad.new_zeros(weight_shape) if need_w else None
    if need_x or need_w:
        _elementwise(
            'inf_scatter',
            layer, (grad, index, grad_x, grad_w),
            NEED_X=need_x,
            NEED_W=need_w)
    return grad_x, grad_w


def backward_finite(grad: Tensor, x: Tensor, weight: Tensor, y: Tensor,
                    p: float, geometry: Geometry, need_x: bool, need_w: bool,
                    deterministic: bool) -> Grads:
    """Gradients at a finite p; see :mod:`.reference`.

    Powers are taken once for both gradients and that of the weight is summed
    by atomic additions, or, if ``deterministic``, in one sweep per gradient
    whose sums always have the same order.
    """
    layer = _Layer.of(x.shape, weight.shape, geometry)
    scales = _scales(y, grad, p)
    run = functools.partial(_backward, layer, p)
    stream, turned = weight, scales
    if layer.conv:
        # [Co, taps, channels]
        stream = weight.view(layer.CO, layer.channels,
                             layer.taps).transpose(1, 2).contiguous()
    else:
        turned = [s.flatten(1).t().contiguous() for s in scales]
    grad_x = grad_w = None
    if need_x and need_w and not deterministic and layer.fits_fused:
        return _backward_fused(layer, p, x, stream, turned, weight.shape)
    if need_x:
        grad_x = run(x, stream, turned, 1 if layer.conv else 0, of_input=True)
    if need_w:
        grad_w = run(weight, x, scales, 2 if layer.conv else 0)
    return grad_x, grad_w


def _scales(y: Tensor, grad: Tensor, p: float) -> Tuple[Tensor, Tensor]:
    """What the backward kernel needs of each output.

    Large or fractional powers give one ratio |d| / y to the sign of d, and
    take their 1 / y from the gradient; it must not overflow there.
    """
    if p < 2 or integer_exponent(p):
        return y.clamp_min(smallest(y.dtype)).reciprocal(), grad
    inverse = y.reciprocal().masked_fill_(y < SMALLEST_Y, 0.)
    # The power amplifies what 1 / y was rounded by: divide it out.
    error = y.double() * inverse - 1
    return inverse, (grad * inverse * (1 - (p - 2) * error)).to(grad.dtype)


def _input_strides(layer: _Layer) -> Tuple[int, int, Tuple[int, ...]]:
    """Columns, terms and strides of an input's gradient."""
    n, k, b = layer.N, layer.K, layer.B
    if layer.conv:
        terms = n * layer.taps
        return layer.channels, terms, (0, 0, terms * layer.channels,
                                       layer.channels, 0, 0)
    return k, n, (k, layer.G * k, n * k, k, n * b, b)


def _weight_strides(layer: _Layer) -> Tuple[int, int, Tuple[int, ...]]:
    """Columns, terms and strides of a weight's gradient."""
    n, k = layer.N, layer.K
    if layer.conv:
        image = layer.channels * layer.H * layer.W
        return k, layer.M, (n * k, k, image, 0, 0, 0)
    return k, layer.B, (n * k, k, k, layer.G * k, n, layer.CO)


def _parts(layer: _Layer, rows: int, columns: int,
           terms: int) -> Tuple[int, int]:
    """Programs that share a sum, and how many terms each takes."""
    tiles = triton.cdiv(rows, 64) * triton.cdiv(columns, 64) * layer.G
    parts = max(min(PROGRAMS // tiles, terms // MIN_TERMS), 1)
    # Starts stay aligned for wide copies.
    return parts, triton.cdiv(terms, parts * 16) * 16


def _backward(layer: _Layer,
              p: float,
              held: Tensor,
              stream: Tensor,
              scales: Sequence[Tensor],
              mode: int,
              of_input: bool = False) -> Tensor:
    """One gradient, of the held operand."""
    if of_input:
        rows = layer.B * layer.H * layer.W
        columns, terms, strides = _input_strides(layer)
    else:
        rows = layer.N
        columns, terms, strides = _weight_strides(layer)
    parts, chunk = _parts(layer, rows, columns, terms)
    result = held.new_empty(parts, *held.shape)
    triton_launch.run(
        'power_backward', (held, stream, *scales, result),
        (p, rows, columns, terms, chunk, *strides, held.numel(), layer.C,
         layer.CO, layer.H, layer.W, layer.HO, layer.WO),
        rows,
        columns, (layer.G, parts),
        MODE=mode,
        POW=_power_kind(p),
        SMALL=p < 2,
        **layer.constants)
    return result.sum(0) if parts > 1 else result[0]


def _backward_fused(layer: _Layer, p: float, x: Tensor, stream: Tensor,
                    scales: Sequence[Tensor],
                    weight_shape: Sequence[int]) -> Tuple[Tensor, Tensor]:
    """Both gradients; ``stream`` holds weights as [Co, taps, channels]."""
    rows = layer.B * layer.padded
    columns, terms, strides = _input_strides(layer)
    parts, chunk = _parts(layer, rows, columns, terms)
    grad_x, grad_w = torch.zeros_like(x), torch.zeros_like(stream)
    triton_launch.run(
        'power_backward_fused', (x, stream, *scales, grad_x, grad_w),
        (p, rows, columns, terms, chunk, *strides, layer.C, layer.CO, layer.H,
         layer.W, layer.HO, layer.WO),
        rows,
        columns, (layer.G, parts),
        MODE=int(layer.conv),
        POW=_power_kind(p),
        SMALL=p < 2,
        **layer.constants)
    if layer.conv:
        grad_w = grad_w.transpose(1, 2).reshape(weight_shape)
    return grad_x, grad_w


def bounds(lower: Tensor, upper: Tensor, weight: Tensor,
           geometry: Geometry) -> Tuple[Tensor, Tensor]:
    """Exact range of the distances over a box; see :mod:`.reference`."""
    layer = _Layer.of(lower.shape, weight.shape, geometry)
    out = [
        lower.new_empty(layer.B, layer.CO, layer.HO, layer.WO) for _ in '12'
    ]
    ends = layer.windows(lower), layer.windows(upper)
    _forward('inf_bounds', layer, (*ends, layer.columns(weight), *out))
    return out[0], out[1]
