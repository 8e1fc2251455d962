# Copyright (c) mmext contributors. All rights reserved.
"""Layers of l_p-distance neurons: distance, mean shift, bias."""
import math
from typing import Optional, Tuple, Union

import torch
import torch.distributed as dist
import torch.nn as nn
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bounds import Bounds, Value, check_certifiable, map_bounds
from .functional import (inf_distance_bounds, inf_distance_bounds_conv2d,
                         lp_distance, lp_distance_conv2d)
from .operator_checks import check_p
from .rounding import note, summation_error


class MeanShift(nn.Module):
    r"""Subtract each channel's mean; no variance, no affine part.

    In training, over batch and space (arXiv:2102.05363):

    .. math:: o = y - m_c,\quad m_c = \mathrm{mean}(y_{:,c}),\quad
              r_c \leftarrow (1 - \mu) r_c + \mu m_c

    with ``m_c`` differentiated and the update not; in evaluation
    ``o = y - r_c``, a constant translation that keeps the Lipschitz
    constant.

    Args:
        num_features (int): Channels.
        momentum (float): ``mu``. Defaults to 0.1.
        sync (bool): In distributed training, take the mean over the batches
            of all processes, as one process with the whole batch would.
            Defaults to False, the mean of each process.
        channel_dim (int): Dimension of the channels. Defaults to 1.

    Config example: ``dict(type='mmext.LipMLP', sync_mean=True)``.
    """

    def __init__(self,
                 num_features: int,
                 momentum: float = 0.1,
                 sync: bool = False,
                 channel_dim: int = 1) -> None:
        super().__init__()
        self.num_features = num_features
        self.momentum = momentum
        self.sync = sync
        self.channel_dim = channel_dim
        self.register_buffer('running_mean', torch.zeros(num_features))

    def _batch_mean(self, y: Tensor) -> Optional[Tensor]:
        dims = [d for d in range(y.dim()) if d != self.channel_dim % y.dim()]
        count = y.numel() // self.num_features
        if self.sync and dist.is_available() and dist.is_initialized() \
                and dist.get_world_size() > 1:
            # Gradients pass through this all_reduce, unlike the plain one.
            from torch.distributed.nn.functional import all_reduce
            total = torch.cat([y.sum(dims), y.new_tensor([float(count)])])
            total = all_reduce(total)
            return total[:-1] / total[-1].detach().clamp(min=1.)
        return y.mean(dims) if count else None

    def forward(self, value: Value) -> Value:
        """Shift a tensor or a box.

        Args:
            value (Tensor | Bounds): Distances, channels in
                ``channel_dim``.

        Returns:
            Tensor | Bounds: Of the same shape.

        Raises:
            CertificationError: For a box in training mode.
        """
        if isinstance(value, Bounds):
            check_certifiable(self.training, value, what='MeanShift')
        if self.training:
            mean = self._batch_mean(value)
            if mean is None:  # an empty batch has no mean
                return value
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach().to(self.running_mean),
                                        self.momentum)
        else:
            mean = self.running_mean
        first = value.lower if isinstance(value, Bounds) else value
        mean = along_channels(mean, first, self.channel_dim)
        return map_bounds(lambda t: t - mean, value)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return (f'{self.num_features}, momentum={self.momentum}, '
                f'sync={self.sync}')


def along_channels(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """View one number per channel so that it broadcasts over ``like``."""
    shape = [1] * like.dim()
    shape[dim] = -1
    return values.to(like.dtype).reshape(shape)


class DistanceLayer(nn.Module):
    """Base: distance, then mean shift, then bias (arXiv:2102.05363).

    Subclasses give ``distance(x)`` and ``distance_bounds(lower, upper)``.
    ``p`` is a plain float, so that no average, cast or checkpoint touches
    it; the schedule sets it.

    Args:
        shape (tuple[int]): Shape of the weight, outputs first.
        groups (int): Groups of channels.
        p (float): Exponent, or inf.
        mean_shift (bool | dict): Whether to subtract the mean, or options
            of :class:`MeanShift`.
        bias (bool): Whether to add a bias.
        identity (float | None): Magnitude of the entry that makes output
            ``o`` start as a copy of input ``o``, None for none.
        channel_dim (int): Dimension of the outputs.
    """

    # How many roundings, in units of the output, one distance takes.
    roundings = 1.

    def __init__(self, shape: Tuple[int, ...], groups: int, p: float,
                 mean_shift: Union[bool, dict], bias: bool,
                 identity: Optional[float], channel_dim: int) -> None:
        super().__init__()
        self.groups = groups
        self.p = p
        self.identity = identity
        self.channel_dim = channel_dim
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        options = mean_shift if isinstance(mean_shift, dict) else {}
        self.mean_shift = MeanShift(
            shape[0], channel_dim=channel_dim, **options) \
            if mean_shift or isinstance(mean_shift, dict) else None
        self.reset_parameters()

    @property
    def p(self) -> float:
        """float: Exponent of the distance."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = check_p(value)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """N(0, 1) weights with identity entries, zero bias and mean."""
        nn.init.normal_(self.weight)
        outputs, width = self.weight.shape[:2]
        if self.identity is not None and width * self.groups <= outputs:
            row = torch.arange(outputs, device=self.weight.device)
            middle = tuple(k // 2 for k in self.weight.shape[2:])
            self.weight[(row, row % width, *middle)] = -float(self.identity)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.mean_shift is not None:
            self.mean_shift.running_mean.zero_()

    def distance(self, x: Tensor) -> Tensor:
        """Distances of a tensor."""
        raise NotImplementedError

    def distance_bounds(self, lower: Tensor,
                        upper: Tensor) -> Tuple[Tensor, Tensor]:
        """Exact interval of each distance over a box, at p = inf."""
        raise NotImplementedError

    def forward(self, value: Value) -> Value:
        """Distances of a tensor or a box, shifted.

        Args:
            value (Tensor | Bounds): Input; a box also carries its value
                along unless that is None.

        Returns:
            Tensor | Bounds: Output.

        Raises:
            CertificationError: For a box at finite ``p``, in training mode,
                under autocast or in half precision.
        """
        if isinstance(value, Bounds):
            check_certifiable(self.training, value, self.p,
                              type(self).__name__)
            x = None if value.x is None else self.distance(value.x)
            y = Bounds(x, *self.distance_bounds(value.lower, value.upper))
        else:
            y = self.distance(value)
        note(y, self.roundings)
        if self.mean_shift is not None:
            y = self.mean_shift(y)
            note(y)
        if self.bias is not None:
            first = y.lower if isinstance(y, Bounds) else y
            bias = along_channels(self.bias, first, self.channel_dim)
            y = map_bounds(lambda t: t + bias, y)
            note(y)
        return y

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        width = self.weight.shape[1] * self.groups
        return (f'{width}, {self.weight.shape[0]}, p={self.p:g}, '
                f'groups={self.groups}, bias={self.bias is not None}')


def _check_groups(inputs: int, outputs: int, groups: int) -> None:
    if inputs < 1 or outputs < 1 or groups < 1 or inputs % groups \
            or outputs % groups:
        raise ConfigError(
            'a distance layer needs at least one input, output and group, '
            'and groups that divide inputs and outputs, but got '
            f'{inputs} inputs, {outputs} outputs, groups={groups}.')


class LpDistLinear(DistanceLayer):
    r"""A layer of l_p-distance neurons on vectors.

    .. math:: y_o = \left(\sum_i |x_i - w_{oi}|^p\right)^{1/p},\quad
              y_o = \max_i |x_i - w_{oi}| \text{ at } p = \infty

    followed by mean shift and bias (arXiv:2102.05363). At p = inf it is
    1-Lipschitz for l_inf.

    Args:
        in_features (int): Inputs, n.
        out_features (int): Outputs.
        groups (int): Groups of inputs and outputs. Defaults to 1.
        p (float): Exponent. Defaults to inf.
        mean_shift (bool | dict): Subtract the mean; a dict gives the
            options of :class:`MeanShift`. Defaults to True.
        bias (bool): Add a bias. Defaults to False.
        identity (float | None): Output ``o`` starts as a copy of input
            ``o``, by a weight of ``-identity``, if there are at least as many
            outputs as inputs. None: normal weights only. Defaults to 10.

    Config example: ``dict(type='mmext.LipMLP', identity=None)``.
    """

    def __init__(self,
                 in_features: int,
                 out_features: int,
                 groups: int = 1,
                 p: float = math.inf,
                 mean_shift: Union[bool, dict] = True,
                 bias: bool = False,
                 identity: Optional[float] = 10.) -> None:
        _check_groups(in_features, out_features, groups)
        super().__init__((out_features, in_features // groups), groups, p,
                         mean_shift, bias, identity, -1)
        self.in_features = in_features
        self.out_features = out_features

    def distance(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        return lp_distance(x, self.weight, self.p, groups=self.groups)

    def distance_bounds(self, lower: Tensor,
                        upper: Tensor) -> Tuple[Tensor, Tensor]:
        """Exact interval of each distance over a box, at p = inf."""
        return inf_distance_bounds(
            lower, upper, self.weight, groups=self.groups)


class LpDistConv2d(DistanceLayer):
    """l_p-distance neurons slid over images, with zero padding.

    Each position is one :class:`LpDistLinear` evaluation of the flattened
    window (arXiv:2102.05363). Output side:
    ``(H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1``.

    Args:
        in_channels (int): Channels of the input.
        out_channels (int): Channels of the output.
        kernel_size (int): Side of the window.
        stride (int): Step. Defaults to 1.
        padding (int): Zeros on each side; a constant, so of radius zero.
            Defaults to 0.
        dilation (int): Spacing inside the window. Defaults to 1.
        groups (int): Groups of channels. Defaults to 1.
        p (float): Exponent. Defaults to inf.
        mean_shift (bool | dict): As in :class:`LpDistLinear`. Defaults to
            True.
        bias (bool): Add a bias. Defaults to False.
        identity (float | None): As in :class:`LpDistLinear`, at the centre
            of the window. Defaults to 10.

    Config example: ``dict(type='mmext.LipLeNet')``.
    """

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int,
                 stride: int = 1,
                 padding: int = 0,
                 dilation: int = 1,
                 groups: int = 1,
                 p: float = math.inf,
                 mean_shift: Union[bool, dict] = True,
                 bias: bool = False,
                 identity: Optional[float] = 10.) -> None:
        _check_groups(in_channels, out_channels, groups)
        super().__init__(
            (out_channels, in_channels // groups, kernel_size, kernel_size),
            groups, p, mean_shift, bias, identity, 1)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.dilation = dilation

    @property
    def _geometry(self) -> dict:
        return dict(
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups)

    def distance(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H', W')."""
        return lp_distance_conv2d(x, self.weight, self.p, **self._geometry)

    def distance_bounds(self, lower: Tensor,
                        upper: Tensor) -> Tuple[Tensor, Tensor]:
        """Exact interval of each distance over a box, at p = inf."""
        return inf_distance_bounds_conv2d(lower, upper, self.weight,
                                          **self._geometry)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return (f'{super().extra_repr()}, kernel_size={self.kernel_size}, '
                f'stride={self.stride}, padding={self.padding}, '
                f'dilation={self.dilation}')


class ScaledLinear(nn.Module):
    r"""Linear layer whose weight is divided by the root of its fan-in.

    .. math:: y = s W x + b,\quad s = 1 / \sqrt{n},\quad W \sim N(0, 1)

    A box maps to centre and radius (arXiv:2102.05363):
    :math:`c' = s W c + b`, :math:`r' = s |W| r`, in float64 and with the
    rounding of the sums added to ``r'``. It is not 1-Lipschitz.

    Args:
        in_features (int): Inputs, n.
        out_features (int): Outputs.

    Config example: part of ``dict(type='mmext.BoundMLPHead', hidden=512)``.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))

    @property
    def scale(self) -> float:
        """float: What the weight is multiplied with."""
        return self.in_features**-0.5

    def forward(self, value: Value) -> Value:
        """Map a tensor (in its precision) or a box.

        A box is mapped in float64 in evaluation, and in its own precision
        and without the rounding term in training, where it only shapes the
        loss.
        """
        if not isinstance(value, Bounds):
            # Float64 features make a float64 layer (exact evaluation).
            dtype = torch.promote_types(value.dtype, self.weight.dtype)
            return nn.functional.linear(
                value.to(dtype),
                self.weight.to(dtype) * self.scale, self.bias.to(dtype))
        if not self.training:
            check_certifiable(False, value, what='ScaledLinear')
            value = value.double()
        weight = self.weight.to(value.lower) * self.scale
        bias = self.bias.to(value.lower)
        x = None if value.x is None else \
            nn.functional.linear(value.x, weight, bias)
        centre = nn.functional.linear(value.centre, weight, bias)
        size = weight.abs()
        half = nn.functional.linear(value.radius, size)
        if not self.training:
            half = half + summation_error(self.in_features) * (
                value.magnitude.amax(1, keepdim=True) * size.sum(1) +
                bias.abs())
        return Bounds(x, centre - half, centre + half)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f'{self.in_features}, {self.out_features}'
