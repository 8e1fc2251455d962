# Copyright (c) mmext contributors. All rights reserved.
"""The SegFormer of NVIDIA's release, so that its weights fit exactly."""
from typing import Any, Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.backbones import MixVisionTransformer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmext.registry import MODELS


@MODELS.register_module()
class NVIDIASegformerHead(BaseDecodeHead):
    r"""SegFormer's head as in NVIDIA's release, unlike mmseg's.

    For the features :math:`F_i` of the four stages (Xie et al., arXiv
    2105.15203, Eq. 4):

    .. math::

        \hat F_i &= Up(Linear_i(F_i)), \quad i = 1 \dots 4 \\
        F &= ReLU(BN(Conv_{1\times1}([\hat F_4, \hat F_3, \hat F_2,
             \hat F_1]))) \\
        M &= Conv_{1\times1}(Dropout_{2d}(F))

    mmseg's ``SegformerHead`` differs: it projects with conv, BN and ReLU, to
    256 channels, and joins the levels in the order 1 to 4. Weights of the
    one do not fit the other. The classifier is the host's ``conv_seg``, so
    dropout before it is where all heads of mmseg have it.

    ``tools/model_converters/nvidia_segformer_to_mmseg.py`` converts NVIDIA's
    checkpoints.

    Args:
        in_channels (Sequence[int]): Channels of the stages, finest first.
        channels (int): Width of the head; 768 in B2 to B5, 256 in B0, B1.
            Defaults to 768.
        in_index (Sequence[int]): Stages to use, finest first.
            Defaults to (0, 1, 2, 3).
        norm_cfg (dict): Norm after the fusion. Defaults to
            ``dict(type='BN')``. NVIDIA trained with SyncBN, which has the
            same weights but needs several GPUs.
        **kwargs: See ``mmseg.models.decode_heads.BaseDecodeHead``; above all
            ``num_classes``.

    Example:
        >>> decode_head = dict(
        ...     type='mmext.NVIDIASegformerHead',
        ...     in_channels=[64, 128, 320, 512],
        ...     channels=768,
        ...     num_classes=19)
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 channels: int = 768,
                 *,
                 in_index: Sequence[int] = (0, 1, 2, 3),
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs: Any) -> None:
        super().__init__(
            in_channels=list(in_channels),
            channels=channels,
            in_index=list(in_index),
            input_transform='multiple_select',
            norm_cfg=norm_cfg,
            **kwargs)
        self.projections = nn.ModuleList(
            nn.Linear(width, channels) for width in self.in_channels)
        self.fusion = ConvModule(
            channels * len(self.in_channels),
            channels,
            kernel_size=1,
            conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Classify every position of the finest stage.

        Args:
            inputs (Sequence[Tensor]): Features (N, C_i, H_i, W_i).

        Returns:
            Tensor: Logits (N, num_classes, H_1, W_1).
        """
        features = self._transform_inputs(inputs)
        size = features[0].shape[2:]
        levels = []
        for feature, project in zip(features, self.projections):
            level = project(feature.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            levels.append(
                resize(
                    level,
                    size=size,
                    mode='bilinear',
                    align_corners=self.align_corners))
        # Coarsest first: the order in which the fusion's weights are laid.
        return self.cls_seg(self.fusion(torch.cat(levels[::-1], dim=1)))


@MODELS.register_module()
class NVIDIAMixVisionTransformer(MixVisionTransformer):
    """mmseg's ``MixVisionTransformer`` with the LayerNorm eps of NVIDIA's.

    Parameters and their names are those of the host's class. NVIDIA's code
    has eps 1e-5 in the norms of the patch embeddings and of the attention's
    spatial reduction and 1e-6 in all others; mmseg has 1e-6 everywhere.

    Args:
        embed_norm_eps (float): In the patch embeddings. Defaults to 1e-5.
        reduction_norm_eps (float): In the attention's reduction.
            Defaults to 1e-5.
        **kwargs: See ``mmseg.models.backbones.MixVisionTransformer``;
            ``norm_cfg`` sets the eps of all other norms.

    Example:
        >>> backbone = dict(
        ...     type='mmext.NVIDIAMixVisionTransformer',
        ...     embed_dims=64,
        ...     num_layers=[3, 6, 40, 3],
        ...     num_heads=[1, 2, 5, 8])
    """

    def __init__(self,
                 embed_norm_eps: float = 1e-5,
                 reduction_norm_eps: float = 1e-5,
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for embed, blocks, _ in self.layers:
            embed.norm.eps = embed_norm_eps
            for block in blocks:
                if block.attn.sr_ratio > 1:
                    block.attn.norm.eps = reduction_norm_eps
