# Copyright (c) mmext contributors. All rights reserved.
"""MoSA in mmpretrain's classifiers and vision transformers."""
from typing import Any, Dict, List, Optional

import torch.nn as nn
from mmpretrain.models import ImageClassifier
from mmpretrain.models.backbones.beit import BEiTTransformerEncoderLayer
from mmpretrain.models.backbones.deit3 import DeiT3TransformerEncoderLayer
from mmpretrain.models.backbones.vision_transformer import \
    TransformerEncoderLayer
from mmpretrain.models.heads import ClsHead, MultiLabelClsHead
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor

from mmext.utils.user_error import ConfigError
from ..adapters import (AdaptedBlock, Host, ReadsInput, register_adapted,
                        register_host)


class ViTFormula(AdaptedBlock):
    """Formula of an adapted block of a vision transformer.

    Bottleneck adapters act outside the block's stochastic depth and layer
    scale, as in the authors' code.
    """

    attention = dict(module='attn', qkv='attn.qkv', o='attn.proj')
    # Name of the norm before the feed-forward part.
    ffn_norm = 'ln2'

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        return block.embed_dims

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x)
        norm = getattr(self, self.ffn_norm)
        return adapter.run(
            x, lambda z: z + self.attn(self.ln1(z)),
            lambda h, identity: self.ffn(norm(h), identity=identity))


@register_adapted
class MoSAViTLayer(ViTFormula, TransformerEncoderLayer):
    """A block of ``VisionTransformer`` (ViT, DeiT, DINOv2) with adapters."""

    host_type = TransformerEncoderLayer


@register_adapted
class MoSADeiT3Layer(ViTFormula, DeiT3TransformerEncoderLayer):
    """A block of ``DeiT3`` with adapters.

    mmpretrain's block puts the norm of the attention before the feed-forward
    part, too, and never uses its second one; so does this.
    """

    host_type = DeiT3TransformerEncoderLayer
    ffn_norm = 'ln1'


@register_adapted
class MoSABEiTLayer(AdaptedBlock, BEiTTransformerEncoderLayer):
    """A block of ``BEiTViT`` with bottleneck adapters.

    Its attention reads the weights of its layers, not their outputs, so that
    it takes no LoRA.
    """

    host_type = BEiTTransformerEncoderLayer
    width = ViTFormula.width
    reads_weights_of = ('attn.qkv', )

    def forward(self, x: Tensor, rel_pos_bias: Optional[Tensor]) -> Tensor:
        """Map tokens (B, T, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x, rel_pos_bias)

        def attention(z: Tensor) -> Tensor:
            out = self.attn(self.ln1(z), rel_pos_bias=rel_pos_bias)
            return z + self.drop_path(out if self.gamma_1 is
                                      None else self.gamma_1 * out)

        def feed_forward(h: Tensor, identity: Tensor) -> Tensor:
            out = self.ffn(self.ln2(h))
            return identity + self.drop_path(out if self.gamma_2 is
                                             None else self.gamma_2 * out)

        return adapter.run(x, attention, feed_forward)


@register_adapted
class MoSAViTAttention(ReadsInput, MultiheadAttention):
    """The attention of a ViT block whose ``o`` branch reads its input."""

    host_type = MultiheadAttention


@register_host(ImageClassifier)
class ImageClassifierHost(Host):
    """How an mmpretrain classifier is trained with two passes."""

    @staticmethod
    def check(model: nn.Module) -> None:
        """Refuse a classifier without a head, such as DINOv2's configs have.

        Raises:
            ConfigError: If there is none.
        """
        if model.head is None:
            raise ConfigError(
                'The classifier has no head to train, as in the headless '
                'configs of mmpretrain (DINOv2). Give it one: '
                "module=dict(..., head=dict(type='LinearClsHead', "
                'num_classes=..., in_channels=...)) with the width of the '
                "backbone's features as in_channels.")

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
    def independent(model: nn.Module) -> bool:
        """Whether an image may have several labels."""
        return isinstance(model.head, MultiLabelClsHead)

    @staticmethod
    def loss(model: nn.Module, feats: Any, logits: Tensor,
             data_samples: List[Any]) -> Dict[str, Tensor]:
        """The head's losses and accuracies."""
        return model.head._get_loss(logits, data_samples)
