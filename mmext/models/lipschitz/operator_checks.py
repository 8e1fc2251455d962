# Copyright (c) mmext contributors. All rights reserved.
"""What the distance operator accepts, and what it says to the rest."""
from typing import Sequence, Tuple, Union

import torch
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .geometry import Geometry, Pair

IntOrPair = Union[int, Sequence[int]]

_HALF = (torch.float16, torch.bfloat16)


def check_p(p: float) -> float:
    """An exponent as a float.

    Args:
        p (float): The exponent.

    Returns:
        float: It.

    Raises:
        ConfigError: If it is not a number above 0.
    """
    if isinstance(p, Tensor) or not isinstance(p, (int, float)):
        raise ConfigError(
            f'p is expected to be a Python number above 0 or math.inf, but '
            f'got {type(p).__name__}: {p!r}. A tensor would be averaged by '
            'EMA and cast with the model.')
    if not p > 0:
        raise ConfigError(
            f'p is expected to be above 0, or math.inf, but got {p}.')
    return float(p)


def prepare(x: Tensor, weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Upcast half precision; refuse what cannot be computed."""
    for name, tensor in (('x', x), ('weight', weight)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor)
            raise ConfigError(
                f'The distance operator expects {name} to be a tensor of '
                f'float32 or float64, but got {got}.')
    x, weight = (t.float() if t.dtype in _HALF else t for t in (x, weight))
    if x.dtype != weight.dtype or x.device != weight.device:
        raise ConfigError(
            'The distance operator expects x and weight of the same dtype on '
            f'the same device, but got {x.dtype} on {x.device} and '
            f'{weight.dtype} on {weight.device}; convert one with .to().')
    if x.dtype not in (torch.float32, torch.float64):
        raise ConfigError('The distance operator computes in float32 or '
                          f'float64, but got {x.dtype}.')
    return x, weight


def _check_groups(channels: int, weight: Tensor, groups: int) -> None:
    if not isinstance(groups, int) or groups < 1:
        raise ConfigError(
            f'groups is expected to be a positive integer, but got {groups}.')
    outputs, inputs = weight.shape[:2]
    if weight.numel() == 0 or outputs % groups:
        raise ConfigError(
            f'A weight of shape {tuple(weight.shape)} cannot be cut into '
            f'{groups} groups: expected a positive number of outputs that '
            f'{groups} divides and no empty axis.')
    if inputs * groups != channels:
        raise ConfigError(
            f'A weight of shape {tuple(weight.shape)} with groups={groups} '
            f'expects {inputs * groups} input channels, but x has {channels}.')


def check_linear(x: Tensor, weight: Tensor, groups: int) -> None:
    """Refuse shapes that do not fit a linear layer."""
    if weight.dim() != 2 or x.dim() < 1:
        raise ConfigError(
            'The distance operator expects x [..., Ci] and weight '
            f'[Co, Ci / groups], but got {tuple(x.shape)} and '
            f'{tuple(weight.shape)}; images go to lp_distance_conv2d.')
    _check_groups(x.shape[-1], weight, groups)


def _pair(value: IntOrPair, name: str, least: int) -> Pair:
    values = (value, value) if isinstance(value, int) else tuple(value)
    if len(values) != 2 or any(not isinstance(v, int) or v < least
                               for v in values):
        raise ConfigError(f'{name} is expected to be one or two integers of '
                          f'at least {least}, but got {value!r}.')
    return values


def conv_geometry(x: Tensor, weight: Tensor, stride: IntOrPair,
                  padding: IntOrPair, dilation: IntOrPair,
                  groups: int) -> Geometry:
    """Checked options of a convolution."""
    if x.dim() != 4 or weight.dim() != 4:
        raise ConfigError(
            'The distance convolution expects x [B, Ci, H, W] and weight '
            f'[Co, Ci / groups, kh, kw], but got {tuple(x.shape)} and '
            f'{tuple(weight.shape)}.')
    _check_groups(x.shape[1], weight, groups)
    geometry = Geometry(
        _pair(stride, 'stride', 1), _pair(padding, 'padding', 0),
        _pair(dilation, 'dilation', 1), groups)
    size, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
    if 0 in geometry.output_size(size, kernel):
        raise ConfigError(
            f'A window of {kernel} with dilation {geometry.dilation} does not '
            f'fit into an image of {size} with padding {geometry.padding}; '
            'use a larger image, more padding or a smaller kernel.')
    return geometry


def check_box(lower: Tensor, upper: Tensor) -> None:
    """Refuse ends of a box that are not alike."""
    if lower.shape != upper.shape or lower.dtype != upper.dtype:
        raise ConfigError(
            'lower and upper are expected to be alike, but got '
            f'{tuple(lower.shape)} {lower.dtype} and {tuple(upper.shape)} '
            f'{upper.dtype}.')
