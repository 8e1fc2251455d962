# Copyright (c) mmext contributors. All rights reserved.
"""MoSA in mmpretrain's classifiers and vision transformers."""
from typing import Any, Dict, List

import torch.nn as nn
from mmpretrain.models import ImageClassifier
from mmpretrain.models.backbones.vision_transformer import \
    TransformerEncoderLayer
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor

from mmext.utils.user_error import ConfigError
from ..adapters import (AdaptedBlock, Host, ReadsInput, register_adapted,
                        register_host)


@register_adapted
class MoSAViTLayer(AdaptedBlock, TransformerEncoderLayer):
    """A block of ``VisionTransformer`` (ViT, DeiT, DINOv2) with adapters.

    Bottleneck adapters act outside the block's stochastic depth and layer
    scale, as in the authors' code.
    """

    host_type = TransformerEncoderLayer
    attention = dict(module='attn', qkv='attn.qkv', o='attn.proj')

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        return block.embed_dims

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x)
        return adapter.run(
            x, lambda z: z + self.attn(self.ln1(z)),
            lambda h, identity: self.ffn(self.ln2(h), identity=identity))


@register_adapted
class MoSAViTAttention(ReadsInput, MultiheadAttention):
    """The attention of a ViT block whose ``o`` branch reads its input."""

    host_type = MultiheadAttention


@register_host(ImageClassifier)
class ImageClassifierHost(Host):
    """How an mmpretrain classifier is trained with two passes."""

    @staticmethod
    def logits(model: nn.Module, feats: Any) -> Tensor:
        """Class scores, shape (B, C).

        Raises:
            ConfigError: If the head does not compute its loss from scores.
        """
        # Others, such as ArcFace, add to the scores what the labels ask for.
        plain = (ClsHead.loss, MultiLabelClsHead.loss)
        if getattr(type(model.head), 'loss', None) not in plain or \
                type(model).loss is not ImageClassifier.loss:
            raise ConfigError(
                'Two passes need the loss of ImageClassifier and a head that '
                'computes its own from class scores alone (a ClsHead), but '
                f'{type(model).__name__} or its head, a '
                f'{type(model.head).__name__}, has a loss of its own. Set '
                'num_passes=1.')
        return model.head(feats)

    @staticmethod
    def loss(model: nn.Module, feats: Any, logits: Tensor,
             data_samples: List[Any]) -> Dict[str, Tensor]:
        """The head's losses and accuracies."""
        return model.head._get_loss(logits, data_samples)
