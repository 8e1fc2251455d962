# Copyright (c) mmext contributors. All rights reserved.
"""Baselines that need no adapter network, on the same injection code."""
from typing import Dict, List

import torch
import torch.nn as nn
from torch import Tensor

from .slots import AdaptedModule, register_adapted


class ScaleShift(nn.Module):
    r"""SSF: scale and shift the output of a layer (arXiv 2210.08823).

    .. math:: y = \gamma \odot x + \beta

    It starts from identity and can be folded into the layer.

    Args:
        width (int): Number of channels.
        axis (int): Axis of the channels. Defaults to -1.
    """

    def __init__(self, width: int, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` to its scaled and shifted self."""
        if self.axis == -1:
            return torch.addcmul(
                self.shift.to(x.dtype), x, self.scale.to(x.dtype))
        shape = [1] * x.dim()
        shape[self.axis] = -1
        return torch.addcmul(
            self.shift.to(x.dtype).view(shape), x,
            self.scale.to(x.dtype).view(shape))

    def folded(self, layer: nn.Module) -> Dict[str, Tensor]:
        """Weight and bias of the layer with scale and shift in them."""
        shape = [-1] + [1] * (layer.weight.dim() - 1)
        bias = 0. if layer.bias is None else layer.bias
        return dict(
            weight=layer.weight * self.scale.view(shape),
            bias=bias * self.scale + self.shift)

    def draws(self) -> list:
        """Nothing is drawn."""
        return []


class _Behind(AdaptedModule):
    """Mixin: the adapter follows the layer."""

    cooperative = True

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, then the adapter."""
        out = super().forward(x)
        adapter = self.adapter
        return out if adapter is None else adapter(out)


@register_adapted
class AdaptedLayerNorm(_Behind, nn.LayerNorm):
    """A LayerNorm with a scale and shift behind it."""

    host_type = nn.LayerNorm


@register_adapted
class AdaptedConv2d(_Behind, nn.Conv2d):
    """A convolution with a scale and shift behind it."""

    host_type = nn.Conv2d


def scale_shift_for(module: nn.Module) -> ScaleShift:
    """The scale and shift that fits a layer."""
    if isinstance(module, nn.Linear):
        return ScaleShift(module.out_features)
    if isinstance(module, nn.LayerNorm):
        return ScaleShift(module.normalized_shape[-1])
    return ScaleShift(module.out_channels, axis=1)


def bias_names(module: nn.Module) -> List[str]:
    """Names of all biases below ``module``, for BitFit."""
    return [
        name for name, _ in module.named_parameters()
        if name.split('.')[-1] in ('bias', 'in_proj_bias', 'q_bias', 'k_bias',
                                   'v_bias')
    ]
