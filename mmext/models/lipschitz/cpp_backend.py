# Copyright (c) mmext contributors. All rights reserved.
"""The distance operator in C++ for CPUs, float32 and float64.

The kernel lies in ``csrc`` and is compiled on first use by
:mod:`.cpp_build`. It runs on as many threads as torch does, never unfolds an
image, and sums gradients in the same order every time for a given number of
threads.
"""
import ctypes
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from . import cpp_build, reference
from .geometry import Geometry

_SUFFIX = {torch.float32: 'f32', torch.float64: 'f64'}


def unavailable(x: Tensor) -> Optional[str]:
    """Why this backend cannot serve a tensor of this device and dtype."""
    if x.device.type != 'cpu':
        return f'it computes on a CPU, not on {x.device}.'
    if x.dtype not in _SUFFIX:
        return f'it computes in float32 or float64, not in {x.dtype}.'
    return cpp_build.failure() or None


def _call(name: str, x: Tensor, *args) -> int:
    """Call a kernel; tensors go as pointers."""
    function = getattr(cpp_build.library(), f'lp_{name}_{_SUFFIX[x.dtype]}')
    return function(
        *(ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a
          for a in args))


def _shape(x_shape: Sequence[int], weight_shape: Sequence[int],
           geometry: Geometry) -> ctypes.Array:
    """What struct Shape of csrc/windows.h holds."""
    out = geometry.output_size(x_shape[2:], weight_shape[2:])
    values = (*x_shape, weight_shape[0], *out, geometry.groups,
              *weight_shape[2:], *geometry.stride, *geometry.padding,
              *geometry.dilation, torch.get_num_threads())
    return (ctypes.c_int64 * len(values))(*values)


def _finite(*tensors: Tensor) -> bool:
    """Whether the kernels, which order numbers, may see them."""
    threads = ctypes.c_int64(torch.get_num_threads())
    return all(
        _call('all_finite', t, t, ctypes.c_int64(t.numel()), threads)
        for t in tensors)


def forward(x: Tensor, weight: Tensor, p: float, geometry: Geometry,
            need_index: bool) -> Tuple[Tensor, Optional[Tensor]]:
    """As :func:`.reference.forward`, which takes over below p = 1 and for
    inputs that are not finite."""
    if p < 1 or not _finite(x, weight):
        return reference.forward(x, weight, p, geometry, need_index)
    y = x.new_empty(geometry.output_shape(x, weight))
    index = None
    if need_index and p == float('inf'):
        index = torch.empty(y.shape, dtype=torch.int32)
    _call('forward', x, _shape(x.shape, weight.shape, geometry), x, weight,
          ctypes.c_double(p), y, index)
    return y, index


def backward_inf(grad: Tensor, index: Tensor, x_shape: Sequence[int],
                 weight_shape: Sequence[int], geometry: Geometry, need_x: bool,
                 need_w: bool, deterministic: bool) -> reference.Grads:
    """As :func:`.reference.backward_inf`."""
    grad_x = grad.new_zeros(x_shape) if need_x else None
    grad_w = grad.new_zeros(weight_shape) if need_w else None
    _call('backward_inf', grad, _shape(x_shape, weight_shape, geometry), grad,
          index, grad_x, grad_w)
    return grad_x, grad_w


def backward_finite(grad: Tensor, x: Tensor, weight: Tensor, y: Tensor,
                    p: float, geometry: Geometry, need_x: bool, need_w: bool,
                    deterministic: bool) -> reference.Grads:
    """As :func:`.reference.backward_finite`."""
    if p < 1 or not _finite(y):
        return reference.backward_finite(grad, x, weight, y, p, geometry,
                                         need_x, need_w, deterministic)
    grad_x = torch.zeros_like(x) if need_x else None
    grad_w = torch.zeros_like(weight) if need_w else None
    _call('backward_finite', grad, _shape(x.shape, weight.shape, geometry),
          grad, x, weight, y, ctypes.c_double(p), grad_x, grad_w)
    return grad_x, grad_w


def bounds(lower: Tensor, upper: Tensor, weight: Tensor,
           geometry: Geometry) -> Tuple[Tensor, Tensor]:
    """As :func:`.reference.bounds`."""
    if not _finite(lower, upper, weight):
        return reference.bounds(lower, upper, weight, geometry)
    shape = geometry.output_shape(lower, weight)
    out = lower.new_empty(shape), lower.new_empty(shape)
    _call('bounds', lower, _shape(lower.shape, weight.shape, geometry), lower,
          upper, weight, *out)
    return out
