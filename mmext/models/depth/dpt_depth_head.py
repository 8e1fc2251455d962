# Copyright (c) mmext contributors. All rights reserved.
"""Heads on DPT's finest path: metric depth, and its uncertainty."""
import math
from typing import List, Optional, Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.utils.arguments import check_number, is_positive
from mmext.utils.user_error import ConfigError
from .dpt_decoder import DPTDecoder, Level


def affine_inverse(raw: Tensor,
                   scale: float,
                   shift: float,
                   invert: bool = True) -> Tensor:
    r"""Raw output to metres.

    .. math:: D = 1 / \max(scale \cdot r + shift, 10^{-8})

    in float32, also under autocast: neither :math:`10^{-8}` nor the depth
    of a saturated pixel, :math:`10^8` m, fits in float16. Where it is
    saturated, the gradient is zero.

    Args:
        raw (Tensor): Any shape.
        scale (float): Inverse metres per unit.
        shift (float): Inverse metres.
        invert (bool): False gives ``scale * raw + shift``.
            Defaults to True.

    Returns:
        Tensor: Depth, float32 (float64 stays float64).
    """
    with torch.autocast(raw.device.type, enabled=False):
        if raw.dtype != torch.float64:
            raw = raw.float()
        depth = scale * raw + shift
        return 1 / depth.clamp_min(1e-8) if invert else depth


class FullPrecisionConv(nn.Conv2d):
    """A convolution in its weights' precision, also under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.to(self.weight.dtype))


class OutputConvs(nn.Sequential):
    """3x3 convolution, x2 bilinear, 3x3, ReLU, 1x1 to one channel.

    (B, channels, h, w) to (B, 1, 2 * h, 2 * w). The last convolution runs in
    float32 also under autocast: raw values are hundreds, of which bfloat16
    keeps 8 bits.

    Args:
        channels (int): Width of the path; the first convolution halves it.
        hidden (int): Width before the last convolution. Defaults to 32.
        init_bias (float, optional): Bias of the last convolution at the
            start. Defaults to None (random, near zero).
    """

    def __init__(self,
                 channels: int,
                 hidden: int = 32,
                 init_bias: Optional[float] = None) -> None:
        super().__init__(
            nn.Conv2d(channels, channels // 2, 3, padding=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=True),
            nn.Conv2d(channels // 2, hidden, 3, padding=1),
            nn.ReLU(inplace=True), FullPrecisionConv(hidden, 1, 1))
        if init_bias is not None:
            nn.init.constant_(self[-1].bias, init_bias)


@register_depth(MODELS)
class DPTDepthHead(DPTDecoder):
    """DPT's decoder and a head for metric depth.

    The network predicts a signed raw value; depth is its affine inverse,
    :func:`affine_inverse`, so it needs no alignment with the ground truth.
    The default constants are those of the public DPT models for driving
    scenes, with which a raw value of 0 means 172.7 m; indoors take
    ``scale=3.05e-4, shift=0.1378`` (7.26 m).

    Args:
        in_channels (Sequence[int]): Of the four levels, finest first.
            Defaults to those of :class:`DPTHybrid`.
        channels (int): Width of the decoder. Defaults to 256.
        hidden (int): Width before the last convolution. Defaults to 32.
        reassemble (dict, optional): Of the levels that are tokens, see
            :class:`DPTDecoder`. Defaults to that of :class:`DPTHybrid`;
            None for a backbone that gives maps (ResNet, Swin).
        scale (float): Inverse metres per unit. Defaults to 6.016e-5.
        shift (float): Inverse metres, not negative. Defaults to 0.00579.
        invert (bool): False predicts depth itself,
            ``scale * raw + shift``. Defaults to True.
        non_negative (bool): Clamp raw values at 0, as the public DPT models
            for KITTI and NYU do; BiCross does not. Defaults to False.
        init_bias (float, optional): Raw value of an untrained head. With
            the default constants 500 to 1500 start at 30 to 10 m and save
            the first epochs. Defaults to None (near 0).
        loss_depth (dict): Loss of the supervised training, called with
            prediction, target and mask. Defaults to
            ``dict(type='mmext.SigLoss')``.
        init_cfg (dict or list, optional): Initialisation.

    Example:
        >>> decode_head = dict(
        ...     type='mmext.DPTDepthHead',
        ...     in_channels=(256, 512, 1024, 2048),
        ...     reassemble=None)
    """

    # What mmseg's EncoderDecoder asks of every decode head.
    align_corners = False
    num_classes = 1
    out_channels = 1

    def __init__(self,
                 in_channels: Sequence[int] = (256, 512, 768, 768),
                 channels: int = 256,
                 hidden: int = 32,
                 reassemble: Optional[dict] = dict(
                     out_channels=(256, 512, 768, 768)),
                 scale: float = 6.016e-5,
                 shift: float = 0.00579,
                 invert: bool = True,
                 non_negative: bool = False,
                 init_bias: Optional[float] = None,
                 loss_depth: dict = dict(type='mmext.SigLoss'),
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(in_channels, channels, reassemble, init_cfg)
        if not is_positive(scale):
            raise ConfigError(f'Expected a positive scale, but got {scale!r}.')
        # below 0, all of a new head is saturated at 1e8 m
        check_number('shift', shift, 0 if invert else -math.inf)
        check_number('init_bias', init_bias, optional=True)
        self.scale, self.shift, self.invert = scale, shift, invert
        self.non_negative = non_negative
        self.output = OutputConvs(channels, hidden, init_bias)
        self.loss_depth = MODELS.build(loss_depth)

    def depth(self, path: Tensor) -> Tensor:
        """Depth in metres from path_1, not clamped, in float32.

        Args:
            path (Tensor): (B, channels, h, w).

        Returns:
            Tensor: (B, 1, 2 * h, 2 * w).
        """
        return self.metres(self.output(path))

    def metres(self, raw: Tensor) -> Tensor:
        """Depth in metres of raw values, :func:`affine_inverse`.

        Args:
            raw (Tensor): Of ``output``, (B, 1, H, W).

        Returns:
            Tensor: Of the same shape.
        """
        if self.non_negative:
            raw = raw.relu()
        return affine_inverse(raw, self.scale, self.shift, self.invert)

    def forward(self, inputs: Sequence[Level]) -> Tensor:
        """Depth in metres from the levels of a backbone.

        Args:
            inputs (Sequence): Maps, or pairs of map and class token.

        Returns:
            Tensor: (B, 1, H, W), twice the size of the finest path.
        """
        return self.depth(self.decode(inputs)[0])

    def predict(self, inputs: Sequence[Level], batch_img_metas: List[dict],
                test_cfg: Optional[dict]) -> Tensor:
        """As :meth:`forward`; the signature of mmseg's decode heads."""
        return self(inputs)

    def supervised_loss(self, depth: Tensor, target: Tensor,
                        mask: Optional[Tensor]) -> Tensor:
        """The supervised loss, in float32.

        Args:
            depth (Tensor): (B, 1, H, W) in metres.
            target (Tensor): (B, 1, H, W) in metres.
            mask (Tensor, optional): (B, 1, H, W), bool.

        Returns:
            Tensor: A scalar.
        """
        with torch.autocast(depth.device.type, enabled=False):
            return self.loss_depth(depth, target, mask)


@register_depth(MODELS)
class DPTUncertaintyHead(BaseModule):
    """A second head on the finest path: the expected relative error.

    It learns :math:`e = clamp(|p - d| / d, 0, 1)` of the depth head as a
    regression. There is no activation at the end.

    Args:
        channels (int): Width of the decoder. Defaults to 256.
        hidden (int): Width before the last convolution. Defaults to 32.
        loss_uncertainty (dict): Called with uncertainty, prediction, target
            and mask. Defaults to ``dict(type='mmext.UncertaintyLoss')``.
        init_bias (float, optional): Uncertainty of an untrained head.
            The mode 'l1log' of the loss needs one above 0: below, it has no
            gradient. Defaults to None.
        init_cfg (dict or list, optional): Initialisation.

    Example:
        >>> uncertainty_head = dict(type='mmext.DPTUncertaintyHead')
    """

    def __init__(self,
                 channels: int = 256,
                 hidden: int = 32,
                 loss_uncertainty: dict = dict(type='mmext.UncertaintyLoss'),
                 init_bias: Optional[float] = None,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.output = OutputConvs(channels, hidden, init_bias)
        self.loss_uncertainty = MODELS.build(loss_uncertainty)

    def forward(self, path: Tensor) -> Tensor:
        """Uncertainty from path_1.

        Args:
            path (Tensor): (B, channels, h, w).

        Returns:
            Tensor: (B, 1, 2 * h, 2 * w), float32.
        """
        return self.output(path)

    def supervised_loss(self, uncertainty: Tensor, depth: Tensor,
                        target: Tensor, mask: Optional[Tensor]) -> Tensor:
        """The supervised loss, in float32.

        Args:
            uncertainty (Tensor): (B, 1, H, W).
            depth (Tensor): (B, 1, H, W) in metres.
            target (Tensor): (B, 1, H, W) in metres.
            mask (Tensor, optional): (B, 1, H, W), bool.

        Returns:
            Tensor: A scalar.
        """
        with torch.autocast(depth.device.type, enabled=False):
            return self.loss_uncertainty(uncertainty, depth, target, mask)
