# Copyright (c) mmext contributors. All rights reserved.
"""MoSA in mmpretrain's Swin transformers."""
import torch.nn as nn
from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.utils import WindowMSA
from torch import Tensor

from ..adapters import AdaptedBlock, ReadsInput, register_adapted


@register_adapted
class MoSASwinBlock(AdaptedBlock, SwinBlock):
    r"""A Swin block with adapters.

    The adapter lives in the feed-forward part and shares its stochastic
    depth (specification a.1): with :math:`u = LN_2(h)`,

    .. math:: y = h + DropPath(F(u) + s \cdot A(u))
    """

    host_type = SwinBlock
    styles = ('AdaptFormer', )
    adapter_norm = False
    attention = dict(
        module='attn.w_msa', qkv='attn.w_msa.qkv', o='attn.w_msa.proj')

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        return block.norm1.normalized_shape[-1]

    def forward(self, x: Tensor, hw_shape: tuple) -> Tensor:
        """Map tokens (B, H * W, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x, hw_shape)

        def inner(x: Tensor) -> Tensor:
            h = self.attn(self.norm1(x), hw_shape) + x
            return adapter.run_inside(self.ffn, self.norm2(h), h)

        return self.checkpointed(inner, x)


@register_adapted
class MoSAWindowAttention(ReadsInput, WindowMSA):
    """Window attention whose ``o`` branch reads its input."""

    host_type = WindowMSA
