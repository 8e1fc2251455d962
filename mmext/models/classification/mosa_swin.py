# Copyright (c) mmext contributors. All rights reserved.
"""MoSA in mmpretrain's Swin transformers."""
from mmpretrain.models.backbones.swin_transformer import SwinBlock
from mmpretrain.models.utils import WindowMSA

from ..adapters import AdaptedSwinBlock, ReadsInput, register_adapted


@register_adapted
class MoSASwinBlock(AdaptedSwinBlock, SwinBlock):
    """A Swin block with adapters."""

    host_type = SwinBlock


@register_adapted
class MoSAWindowAttention(ReadsInput, WindowMSA):
    """Window attention whose ``o`` branch reads its input."""

    host_type = WindowMSA
