# Copyright (c) mmext contributors. All rights reserved.
r"""The l_p distance of inputs to weight rows: the operator and its bounds.

.. math::
    y_o = \Big(\sum_i |x_i - w_{oi}|^p\Big)^{1/p}, \qquad
    y_o = \max_i |x_i - w_{oi}| \quad (p = \infty)

of "Towards Certifying L-infinity Robustness using Neural Networks with
L-inf-dist Neurons" (arXiv 2102.05363, section 3), as a linear layer and as a
convolution. At p = inf it is 1-Lipschitz for the l_inf norm; a finite p is a
relaxation for training.

Four functions are public; they choose one of three backends with one
interface: ``reference`` (torch, anywhere), ``cpp`` (CPU, compiled on first
use) and ``triton`` (CUDA). ``auto`` takes the fastest that can serve the
tensors; the environment variable ``MMEXT_LP_BACKEND`` overrides it.
"""
import functools
import importlib
import math
import os
from types import ModuleType
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmext.utils.user_error import ConfigError
from . import cpp_backend, reference
from .geometry import Geometry
from .operator_checks import (IntOrPair, check_box, check_linear, check_p,
                              conv_geometry, prepare)

BACKENDS = ('auto', 'reference', 'cpp', 'triton')
BACKEND_VARIABLE = 'MMEXT_LP_BACKEND'


def lp_distance(x: Tensor,
                weight: Tensor,
                p: float,
                groups: int = 1,
                backend: str = 'auto',
                deterministic: Optional[bool] = None) -> Tensor:
    r"""l_p distance of input vectors to weight rows.

    :math:`y_o = \|x - w_o\|_p`. With ``groups=G``, outputs and channels are
    cut into G equal parts and each output sees the channels of its part. The
    largest difference is factored out before powers are taken, so that any p
    and any scale of the data gives finite values and gradients. At p = inf
    the gradient goes to the first maximal difference, whose sign counts as
    +1 when it is 0; a zero difference has zero gradient at a finite p.

    Half-precision inputs, as under autocast, are computed and returned in
    float32.

    Args:
        x (Tensor): Inputs, [..., Ci].
        weight (Tensor): Weight rows, [Co, Ci / groups].
        p (float): Exponent, above 0; ``math.inf`` for the maximum.
        groups (int): Number of groups. Defaults to 1.
        backend (str): 'auto', 'reference', 'cpp' or 'triton'.
            Defaults to 'auto'.
        deterministic (bool, optional): Whether gradients are summed in the
            same order every time; by default what
            :func:`torch.use_deterministic_algorithms` says. The first two
            backends always do on a CPU.

    Returns:
        Tensor: Distances, [..., Co].

    Raises:
        ConfigError: If shapes, dtypes, p or the backend do not fit.

    Examples:
        >>> x = torch.tensor([[1., 2.], [0., 0.]])
        >>> w = torch.tensor([[0., 5.]])
        >>> lp_distance(x, w, math.inf)
        tensor([[3.],
                [5.]])
    """
    x, weight = prepare(x, weight)
    check_linear(x, weight, groups)
    geometry = Geometry(groups=groups)
    y = _distance(
        x.reshape(-1 if x.numel() else math.prod(x.shape[:-1]), x.shape[-1], 1,
                  1), weight[..., None, None], p, geometry, backend,
        deterministic)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def lp_distance_conv2d(x: Tensor,
                       weight: Tensor,
                       p: float,
                       stride: IntOrPair = 1,
                       padding: IntOrPair = 0,
                       dilation: IntOrPair = 1,
                       groups: int = 1,
                       backend: str = 'auto',
                       deterministic: Optional[bool] = None) -> Tensor:
    r"""l_p distance of an image's windows to kernels.

    :math:`y_{o,h,w} = \|x_{\text{window}(h,w)} - w_o\|_p`, which is
    :func:`lp_distance` after an unfold, without the unfolded copy. The
    padding consists of zeros and counts as part of a window.

    Args:
        x (Tensor): Images, [B, Ci, H, W].
        weight (Tensor): Kernels, [Co, Ci / groups, kh, kw].
        p (float): Exponent, above 0; ``math.inf`` for the maximum.
        stride (int or tuple[int]): Step between windows. Defaults to 1.
        padding (int or tuple[int]): Zeros on each side. Defaults to 0.
        dilation (int or tuple[int]): Step between taps. Defaults to 1.
        groups (int): Number of groups. Defaults to 1.
        backend (str): As in :func:`lp_distance`. Defaults to 'auto'.
        deterministic (bool, optional): As in :func:`lp_distance`.

    Returns:
        Tensor: Distances, [B, Co, Ho, Wo] with
        ``Ho = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1``.

    Raises:
        ConfigError: If shapes, dtypes, p or the backend do not fit.

    Examples:
        >>> x, w = torch.randn(8, 3, 32, 32), torch.randn(6, 3, 5, 5)
        >>> lp_distance_conv2d(x, w, 8., stride=2, padding=2).shape
        torch.Size([8, 6, 16, 16])
    """
    x, weight = prepare(x, weight)
    geometry = conv_geometry(x, weight, stride, padding, dilation, groups)
    return _distance(x, weight, p, geometry, backend, deterministic)


def inf_distance_bounds(lower: Tensor,
                        upper: Tensor,
                        weight: Tensor,
                        groups: int = 1,
                        backend: str = 'auto') -> Tuple[Tensor, Tensor]:
    r"""Exact range of the l_inf distance over a box of inputs.

    .. math::
        \underline y_o = \max_i \max(l_i - w_{oi}, w_{oi} - u_i, 0), \qquad
        \overline y_o = \max_i \max(u_i - w_{oi}, w_{oi} - l_i)

    Not differentiable.

    Args:
        lower (Tensor): Lower ends, [..., Ci].
        upper (Tensor): Upper ends, not below ``lower``.
        weight (Tensor): Weight rows, [Co, Ci / groups].
        groups (int): Number of groups. Defaults to 1.
        backend (str): As in :func:`lp_distance`. Defaults to 'auto'.

    Returns:
        tuple[Tensor, Tensor]: Lower and upper ends, [..., Co].

    Raises:
        ConfigError: If shapes, dtypes or the backend do not fit.
    """
    (lower, weight), (upper, _) = (prepare(lower,
                                           weight), prepare(upper, weight))
    check_linear(lower, weight, groups)
    check_box(lower, upper)
    shape = (math.prod(lower.shape[:-1]), lower.shape[-1], 1, 1)
    out = _bounds(
        lower.reshape(shape), upper.reshape(shape), weight[..., None, None],
        Geometry(groups=groups), backend)
    low, high = (y.reshape(*lower.shape[:-1], weight.shape[0]) for y in out)
    return low, high


def inf_distance_bounds_conv2d(lower: Tensor,
                               upper: Tensor,
                               weight: Tensor,
                               stride: IntOrPair = 1,
                               padding: IntOrPair = 0,
                               dilation: IntOrPair = 1,
                               groups: int = 1,
                               backend: str = 'auto') -> Tuple[Tensor, Tensor]:
    """Exact range of the l_inf distances of windows over a box of images.

    :func:`inf_distance_bounds` of every window; padding is a constant 0.

    Args:
        lower (Tensor): Lower ends, [B, Ci, H, W].
        upper (Tensor): Upper ends, not below ``lower``.
        weight (Tensor): Kernels, [Co, Ci / groups, kh, kw].
        stride (int or tuple[int]): Step between windows. Defaults to 1.
        padding (int or tuple[int]): Zeros on each side. Defaults to 0.
        dilation (int or tuple[int]): Step between taps. Defaults to 1.
        groups (int): Number of groups. Defaults to 1.
        backend (str): As in :func:`lp_distance`. Defaults to 'auto'.

    Returns:
        tuple[Tensor, Tensor]: Lower and upper ends, [B, Co, Ho, Wo].

    Raises:
        ConfigError: If shapes, dtypes or the backend do not fit.
    """
    (lower, weight), (upper, _) = (prepare(lower,
                                           weight), prepare(upper, weight))
    geometry = conv_geometry(lower, weight, stride, padding, dilation, groups)
    check_box(lower, upper)
    return _bounds(lower, upper, weight, geometry, backend)


class _Distance(torch.autograd.Function):
    """The operator with its gradients, on one backend."""

    @staticmethod
    def forward(ctx, x, weight, p, geometry, backend, deterministic, grads):
        x, weight = x.contiguous(), weight.contiguous()
        infinite = math.isinf(p)
        shape = geometry.output_shape(x, weight)
        if math.prod(shape) == 0:
            y, index = x.new_empty(shape), None
        else:
            y, index = backend.forward(x, weight, p, geometry, infinite
                                       and grads)
        if grads:
            # The position alone decides the gradient at p = inf.
            if index is not None:
                ctx.save_for_backward(index)
            else:
                ctx.save_for_backward(x, weight, y)
        ctx.shapes = x.shape, weight.shape
        ctx.infinite, ctx.options = infinite, (p, geometry, backend,
                                               deterministic)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        p, geometry, backend, deterministic = ctx.options
        needs = ctx.needs_input_grad[:2]
        if grad.numel() == 0:
            grads = tuple(
                grad.new_zeros(shape) if need else None
                for shape, need in zip(ctx.shapes, needs))
        elif ctx.infinite:
            index, = ctx.saved_tensors
            grads = backend.backward_inf(grad.contiguous(), index, *ctx.shapes,
                                         geometry, *needs, deterministic)
        else:
            grads = backend.backward_finite(grad.contiguous(),
                                            *ctx.saved_tensors, p, geometry,
                                            *needs, deterministic)
        return (*grads, None, None, None, None, None)


@functools.lru_cache(maxsize=None)
def _apply_uncompiled():
    """The operator for code under torch.compile, which cannot trace it."""
    return torch.compiler.disable(_Distance.apply)


def _exporting() -> bool:
    """Whether someone records the operations, to run them elsewhere."""
    is_exporting = getattr(torch.compiler, 'is_exporting', None)
    return (torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()
            or is_exporting is not None and is_exporting())


def _distance(x: Tensor, weight: Tensor, p: float, geometry: Geometry,
              backend: str, deterministic: Optional[bool]) -> Tensor:
    p = check_p(p)
    if _exporting():
        return reference.direct(x, weight, p, geometry)
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    grads = torch.is_grad_enabled() and (x.requires_grad
                                         or weight.requires_grad)
    apply = _Distance.apply
    if torch.compiler.is_compiling():
        apply = _apply_uncompiled()
    return apply(x, weight, p, geometry, find_backend(backend, x),
                 deterministic, grads)


@torch.no_grad()
def _bounds(lower: Tensor, upper: Tensor, weight: Tensor, geometry: Geometry,
            backend: str) -> Tuple[Tensor, Tensor]:
    shape = geometry.output_shape(lower, weight)
    if math.prod(shape) == 0:
        return lower.new_empty(shape), lower.new_empty(shape)
    module = find_backend(backend, lower)
    return module.bounds(lower.contiguous(), upper.contiguous(),
                         weight.contiguous(), geometry)


def find_backend(name: str, x: Tensor) -> ModuleType:
    """The module that computes for tensors like one.

    Args:
        name (str): 'auto', 'reference', 'cpp' or 'triton'. 'auto' takes
            ``MMEXT_LP_BACKEND`` or else the fastest that is there.
        x (Tensor): A tensor of the device and dtype in question.

    Returns:
        ModuleType: The backend.

    Raises:
        ConfigError: If there is no such backend, or it cannot serve ``x``.
    """
    asked = 'backend'
    if name == 'auto':
        variable = os.environ.get(BACKEND_VARIABLE, '') or 'auto'
        if variable != 'auto':
            name, asked = variable, BACKEND_VARIABLE
    if name not in BACKENDS:
        raise ConfigError(f'{asked} of the distance operator: expected one of '
                          f'{", ".join(BACKENDS)}, but got {name!r}.')
    if name == 'auto':
        fast = {'cpu': 'cpp', 'cuda': 'triton'}.get(x.device.type, 'reference')
        module = _module(fast)
        return module if module.unavailable(x) is None else reference
    module = _module(name)
    reason = module.unavailable(x)
    if reason is not None:
        raise ConfigError(
            f"{asked}='{name}' of the distance operator cannot be used here: "
            f"{reason} Use 'auto' or 'reference'.")
    return module


def _module(name: str) -> ModuleType:
    if name == 'triton':
        # Imported only when asked for, as Triton may be missing.
        return importlib.import_module('.triton_backend', __package__)
    return cpp_backend if name == 'cpp' else reference
