# Copyright (c) mmext contributors. All rights reserved.
"""MoSA in mmseg's segmentors and their transformer backbones."""
from typing import Any, Dict, List

import torch.nn as nn
from mmseg.models import EncoderDecoder
from mmseg.models.backbones import mit, vit
from mmseg.models.backbones.swin import SwinBlock, WindowMSA
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor

from mmext.utils.user_error import ConfigError
from ..adapters import (AdaptedBlock, AdaptedSwinBlock, Host, ReadsInput,
                        register_adapted, register_host)


@register_adapted
class MoSAMiTLayer(AdaptedBlock, mit.TransformerEncoderLayer):
    """A SegFormer block with adapters.

    A bottleneck adapter reads the tokens of its stage, beside MixFFN, and
    acts outside the stochastic depth as on ViT.
    """

    host_type = mit.TransformerEncoderLayer
    attention = dict(whole='attn.attn')

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        return block.ffn.embed_dims

    def forward(self, x: Tensor, hw_shape: tuple) -> Tensor:
        """Map tokens (B, H * W, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x, hw_shape)
        return self.checkpointed(
            lambda z: adapter.run(
                z, lambda t: self.attn(self.norm1(t), hw_shape, identity=t),
                lambda h, identity: self.ffn(
                    self.norm2(h), hw_shape, identity=identity)), x)


@register_adapted
class MoSASegViTLayer(AdaptedBlock, vit.TransformerEncoderLayer):
    """A block of mmseg's own ``VisionTransformer`` with adapters."""

    host_type = vit.TransformerEncoderLayer
    attention = dict(whole='attn.attn')

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        return block.ffn.embed_dims

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x)
        return self.checkpointed(
            lambda z: adapter.run(
                z, lambda t: self.attn(self.norm1(t), identity=t), lambda h,
                identity: self.ffn(self.norm2(h), identity=identity)), x)


@register_adapted
class MoSASegSwinBlock(AdaptedSwinBlock, SwinBlock):
    """A block of mmseg's own ``SwinTransformer`` with adapters."""

    host_type = SwinBlock


@register_adapted
class MoSASegWindowAttention(ReadsInput, WindowMSA):
    """Window attention whose ``o`` branch reads its input."""

    host_type = WindowMSA


@register_host(EncoderDecoder)
class EncoderDecoderHost(Host):
    """How an mmseg segmentor is trained with two passes.

    The consistency term compares the decode head's logits, pixel by pixel;
    auxiliary heads see the first pass.
    """

    @staticmethod
    def logits(model: nn.Module, feats: Any) -> Tensor:
        """Logits of the decode head, shape (B, C, h, w).

        Raises:
            ConfigError: If segmentor or head has a loss of its own, or the
                head does not return logits as one tensor.
        """
        if isinstance(model.decode_head, nn.ModuleList):
            raise ConfigError('Two passes need a single decode head, but the '
                              'segmentor is a cascade. Set num_passes=1.')
        if type(model).loss is not EncoderDecoder.loss or \
                type(model.decode_head).loss is not BaseDecodeHead.loss:
            raise ConfigError(
                'Two passes need the losses of EncoderDecoder and '
                f'BaseDecodeHead, but {type(model).__name__} or its head, a '
                f'{type(model.decode_head).__name__}, has a loss of its own. '
                'Set num_passes=1.')
        logits = model.decode_head(feats)
        if not isinstance(logits, Tensor):
            raise ConfigError(
                'Two passes need a decode head that returns logits of shape '
                f'(N, C, h, w), but {type(model.decode_head).__name__} '
                f'returned {type(logits).__name__}. Set num_passes=1.')
        return logits

    @staticmethod
    def independent(model: nn.Module) -> bool:
        """Whether the decode head has a single channel for two classes, or
        every loss of it takes the sigmoid of its logits."""
        head = model.decode_head
        losses = head.loss_decode
        if not isinstance(losses, nn.ModuleList):
            losses = [losses]
        return head.out_channels == 1 or all(
            getattr(loss, 'use_sigmoid', False) for loss in losses)

    @staticmethod
    def loss(model: nn.Module, feats: Any, logits: Tensor,
             data_samples: List[Any]) -> Dict[str, Tensor]:
        """Losses of the decode head and the auxiliary heads."""
        losses = add_prefix(
            model.decode_head.loss_by_feat(logits, data_samples), 'decode')
        if model.with_auxiliary_head:
            losses.update(
                model._auxiliary_head_forward_train(feats, data_samples))
        return losses
