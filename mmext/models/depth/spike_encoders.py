# Copyright (c) mmext contributors. All rights reserved.
"""Temporal modules in front of the stem: spikes in, spikes or RGB out."""
from typing import List, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.utils.user_error import ConfigError


@register_depth(MODELS)
class SpikeSE(BaseModule):
    r"""Squeeze and excitation over the moments of a spike stream.

    .. math::

        y = s \cdot \sigma\left(W_2\, ReLU\left(W_1\,
            \mathrm{mean}_{hw}(s)\right)\right)

    The moments are the channels, so each of them gets a weight in (0, 1) of
    its own. The linear maps have no bias.

    Args:
        channels (int): Number of moments T. Defaults to 128.
        reduction (int): T over the width of the hidden layer.
            Defaults to 16.
        init_cfg (dict or list, optional): Initialisation.

    Example:
        >>> temporal = dict(type='mmext.SpikeSE', channels=128)
    """

    def __init__(self,
                 channels: int = 128,
                 reduction: int = 16,
                 init_cfg: dict = None) -> None:
        super().__init__(init_cfg)
        if channels < 1 or reduction < 1 or channels % reduction:
            raise ConfigError(
                'Expected a number of channels that the reduction divides, '
                f'but got channels={channels}, reduction={reduction}.')
        self.in_channels = self.out_channels = channels
        self.squeeze = nn.Linear(channels, channels // reduction, bias=False)
        self.excite = nn.Linear(channels // reduction, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the moments.

        Args:
            x (Tensor): Signed spikes or features (B, T, H, W).

        Returns:
            Tensor: The same shape.
        """
        weight = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3)))))
        return x * weight.sigmoid()[:, :, None, None]


def _double_conv(in_channels: int, hidden: int, out: int) -> nn.Sequential:
    """Two times 3x3 convolution (with bias), BatchNorm, ReLU."""
    layers: List[nn.Module] = []
    for source, target in ((in_channels, hidden), (hidden, out)):
        layers += [
            nn.Conv2d(source, target, 3, padding=1),
            nn.BatchNorm2d(target),
            nn.ReLU(inplace=True)
        ]
    return nn.Sequential(*layers)


@register_depth(MODELS)
class SpikeUNet(BaseModule):
    """A U-Net that turns spikes into a picture for an RGB network.

    A double convolution at the first width, a max-pool and a double
    convolution for each further width, then as many steps up (bilinear,
    ``align_corners=True``, skip connection first) and a 1x1 convolution.
    The hidden width of a step up is half of what comes in. Maps of an odd
    size are padded with zeros at the bottom and right.

    Args:
        in_channels (int): Number of moments T. Defaults to 128.
        out_channels (int): Channels of the picture. Defaults to 3.
        widths (Sequence[int]): Of the levels, finest first.
            Defaults to (128, 256, 512, 512).
        up_widths (Sequence[int]): Of the steps up, coarsest first.
            Defaults to (256, 128, 64).
        init_cfg (dict or list, optional): Initialisation.

    Example:
        >>> temporal = dict(type='mmext.SpikeUNet', in_channels=128)
        >>> backbone = dict(type='mmext.DPTHybrid', in_channels=3)
    """

    def __init__(self,
                 in_channels: int = 128,
                 out_channels: int = 3,
                 widths: Sequence[int] = (128, 256, 512, 512),
                 up_widths: Sequence[int] = (256, 128, 64),
                 init_cfg: dict = None) -> None:
        super().__init__(init_cfg)
        if len(widths) != len(up_widths) + 1 or len(widths) < 2:
            raise ConfigError(
                'Expected one step up for each step down, so that widths has '
                'one number more than up_widths, but got '
                f'widths={tuple(widths)}, up_widths={tuple(up_widths)}.')
        self.in_channels, self.out_channels = in_channels, out_channels
        self.inlet = _double_conv(in_channels, widths[0], widths[0])
        self.downs = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _double_conv(fine, coarse, coarse))
            for fine, coarse in zip(widths, widths[1:]))
        self.ups = nn.ModuleList()
        below = widths[-1]
        for skip, width in zip(widths[-2::-1], up_widths):
            joined = skip + below
            self.ups.append(_double_conv(joined, joined // 2, width))
            below = width
        self.outlet = nn.Conv2d(below, out_channels, 1)

    def bottleneck(self, x: Tensor) -> Tensor:
        """What happens to the coarsest map; nothing here."""
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Turn spikes into a picture.

        Args:
            x (Tensor): Signed spikes (B, T, H, W); H and W of at least
                ``2 ** len(up_widths)`` pixels.

        Returns:
            Tensor: (B, out_channels, H, W), unbounded.
        """
        skips = [self.inlet(x)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        out = self.bottleneck(skips.pop())
        for up in self.ups:
            skip = skips.pop()
            out = F.interpolate(
                out, scale_factor=2, mode='bilinear', align_corners=True)
            rows, columns = (skip.size(i) - out.size(i) for i in (2, 3))
            out = F.pad(out, (0, columns, 0, rows))
            out = up(torch.cat([skip, out], dim=1))
        return self.outlet(out)


@register_depth(MODELS)
class SpikeUSENet(SpikeUNet):
    """:class:`SpikeUNet` with channel attention on the coarsest map.

    Args:
        reduction (int): Of the attention, see :class:`SpikeSE`.
            Defaults to 16.
        **kwargs: Arguments of :class:`SpikeUNet`.

    Example:
        >>> temporal = dict(type='mmext.SpikeUSENet', in_channels=128)
    """

    def __init__(self, *args, reduction: int = 16, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        coarsest = self.downs[-1][1][3].out_channels
        self.attention = SpikeSE(coarsest, reduction)

    def bottleneck(self, x: Tensor) -> Tensor:
        """Weigh the channels of the coarsest map."""
        return self.attention(x)
