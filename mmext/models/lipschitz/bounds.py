# Copyright (c) mmext contributors. All rights reserved.
"""A value together with the box that holds it, and maps of boxes."""
import math
from contextlib import nullcontext
from typing import Callable, ContextManager, NamedTuple, Optional, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError, UserError
from .rounding import note_average


class CertificationError(UserError, RuntimeError):
    """A certificate was asked of a network that cannot give one now."""


class Bounds(NamedTuple):
    """A tensor and elementwise bounds of it, all of one shape.

    Attributes:
        x (Tensor | None): The value itself. None when only the box is
            wanted, which saves a third of the work.
        lower (Tensor): Lower end of each element.
        upper (Tensor): Upper end of each element.
    """
    x: Optional[Tensor]
    lower: Tensor
    upper: Tensor

    @property
    def shape(self) -> torch.Size:
        """torch.Size: Shape of each of the tensors."""
        return self.lower.shape

    @property
    def box(self) -> 'Bounds':
        """Bounds: The same box without the value."""
        return Bounds(None, self.lower, self.upper)

    @property
    def centre(self) -> Tensor:
        """Tensor: Middle of each element's interval."""
        return (self.lower + self.upper) / 2

    @property
    def radius(self) -> Tensor:
        """Tensor: Half the width of each element's interval."""
        return (self.upper - self.lower) / 2

    @property
    def magnitude(self) -> Tensor:
        """Tensor: Largest absolute value in each element's interval."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def to(self, *args, **kwargs) -> 'Bounds':
        """Bounds: Every tensor moved or cast as by ``Tensor.to``."""
        return map_bounds(lambda t: t.to(*args, **kwargs), self)

    def double(self) -> 'Bounds':
        """Bounds: Every tensor in float64."""
        return self.to(torch.float64)

    def widen(self, by: Tensor) -> 'Bounds':
        """Bounds: The box grown on all sides.

        Args:
            by (Tensor): Non-negative growth per sample, shape (B, ).
        """
        by = by.to(self.lower).reshape(-1, *[1] * (self.lower.dim() - 1))
        return Bounds(self.x, self.lower - by, self.upper + by)


# What every module of this package takes and gives back in kind.
Value = Union[Tensor, Bounds]


def map_bounds(function: Callable[[Tensor], Tensor], value: Value) -> Value:
    """Apply an elementwise non-decreasing function to a value or a box.

    Args:
        function (Callable[[Tensor], Tensor]): Non-decreasing in each input
            coordinate, such as a translation, a pooling or tanh.
        value (Tensor | Bounds): What to apply it to.

    Returns:
        Tensor | Bounds: The image; of a box the smallest one that holds it.
    """
    if not isinstance(value, Bounds):
        return function(value)
    return Bounds(*(None if t is None else function(t) for t in value))


def check_certifiable(training: bool,
                      value: Bounds,
                      p: float = math.inf,
                      what: str = 'This layer') -> None:
    """Refuse bounds where they would hold for no network (property 17).

    Args:
        training (bool): Whether the module is in training mode, in which
            mean shift depends on the whole batch.
        value (Bounds): The box.
        p (float): Exponent of the distance. Defaults to inf.
        what (str): Subject of the message. Defaults to 'This layer'.

    Raises:
        CertificationError: In training mode, at finite ``p``, under autocast
            or for a box below single precision.
    """
    if training:
        raise CertificationError(
            f'{what} is in training mode, where it has no bounds: mean shift '
            'subtracts the mean of the batch. Call model.eval() first.')
    if p != math.inf:
        raise CertificationError(
            f'{what} has p = {p:g}; bounds and certificates hold at p = inf '
            'only (at finite p a neuron stretches distances by up to '
            'n^(1/p)). Evaluate inside `with p_norm(model, math.inf):` of '
            'mmext.models.lipschitz.p_norm, or let PNormScheduleHook do it.')
    device = value.lower.device.type
    if torch.is_autocast_enabled(device):
        raise CertificationError(
            'Bounds were asked for under autocast, whose rounding no '
            'certificate covers. Leave the autocast context (no fp16 in the '
            'validation and test loops: use OptimWrapper, or '
            '`with torch.autocast(device, enabled=False):`).')
    if value.lower.dtype not in (torch.float32, torch.float64):
        raise CertificationError(
            'Bounds need float32 or float64 tensors, but got '
            f'{value.lower.dtype}. Call model.float() and pass float inputs.')


def full_precision(value: Value) -> ContextManager:
    """A context without autocast for what is computed from ``value``.

    Args:
        value (Tensor | Bounds): Decides the device.

    Returns:
        ContextManager: It.
    """
    first = value.lower if isinstance(value, Bounds) else value
    kind = first.device.type
    # Asked first: autocast knows fewer devices than tensors live on.
    if kind != 'meta' and torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    return nullcontext()


class BoundMap(nn.Module):
    """Base of parameter-free non-decreasing modules that also map boxes."""

    def apply_to(self, x: Tensor) -> Tensor:
        """The map on a tensor."""
        raise NotImplementedError

    def forward(self, value: Value) -> Value:
        """Map a tensor, or both ends of a box."""
        return map_bounds(self.apply_to, value)


class BoundTanh(BoundMap):
    """Hyperbolic tangent; 1-Lipschitz.

    Config example: part of :class:`BoundMLP`.
    """

    def apply_to(self, x: Tensor) -> Tensor:
        """tanh(x)."""
        return torch.tanh(x)


class BoundFlatten(BoundMap):
    """Flatten all but the batch dimension, channels slowest."""

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, ...) to (B, N)."""
        # Not reshape(B, -1), which an empty batch leaves undecided.
        return x.flatten(1)


class BoundMaxPool2d(BoundMap):
    """Max pooling without padding; 1-Lipschitz.

    Args:
        kernel_size (int): Side of the window.
        stride (int, optional): Step. Defaults to ``kernel_size``.
    """

    def __init__(self, kernel_size: int, stride: Optional[int] = None) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        return F.max_pool2d(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f'kernel_size={self.kernel_size}, stride={self.stride}'


class BoundAvgPool2d(BoundMaxPool2d):
    """Average pooling without padding; 1-Lipschitz.

    Args:
        kernel_size (int): Side of the window.
        stride (int, optional): Step. Defaults to ``kernel_size``.
    """

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W')."""
        return F.avg_pool2d(x, self.kernel_size, self.stride)

    def forward(self, value: Value) -> Value:
        """Map a tensor, or both ends of a box."""
        note_average(value, self.kernel_size**2)
        return super().forward(value)


class BoundAdaptiveAvgPool2d(BoundMap):
    """Average over the plane, cut into ``output_size`` cells; 1-Lipschitz.

    Args:
        output_size (int | tuple[int, int]): Cells. Defaults to 1.
    """

    def __init__(self, output_size: Union[int, Tuple[int, int]] = 1) -> None:
        super().__init__()
        self.output_size = output_size

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, *output_size)."""
        return F.adaptive_avg_pool2d(x, self.output_size)

    def forward(self, value: Value) -> Value:
        """Map a tensor, or both ends of a box."""
        note_average(value, value.shape[-1] * value.shape[-2])
        return super().forward(value)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f'output_size={self.output_size}'


class BoundConstantPad2d(BoundMap):
    """Surround images with a constant, which no attacker can change.

    Args:
        padding (int | tuple[int, int, int, int]): Width on all sides, or
            (left, right, top, bottom).
        value (float): What to fill in, in the units of the input: black is
            ``-mean / std`` of the data preprocessor. Defaults to 0.
    """

    def __init__(self,
                 padding: Union[int, Tuple[int, int, int, int]],
                 value: float = 0.) -> None:
        super().__init__()
        sides = (padding, ) * 4 if isinstance(padding, int) else tuple(padding)
        if len(sides) != 4 or any(not isinstance(side, int) or side < 0
                                  for side in sides):
            raise ConfigError(
                'input_pad is one width or (left, right, top, bottom), all '
                f'at least 0, but got {padding!r}.')
        self.padding = sides
        self.value = float(value)

    def apply_to(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H + top + bottom, W + left + right)."""
        return F.pad(x, self.padding, value=self.value)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f'padding={self.padding}, value={self.value:g}'


class Negate(nn.Module):
    """``-x``; of a box the ends change places.

    Turns the distances of a class layer into logits,
    ``z_k = -(||h - w_k|| + b_k)``.
    """

    def forward(self, value: Value) -> Value:
        """Negate a tensor or a box."""
        if isinstance(value, Bounds):
            x = None if value.x is None else -value.x
            return Bounds(x, -value.upper, -value.lower)
        return -value
