# Copyright (c) mmext contributors. All rights reserved.
"""Parts for mmpretrain classifiers."""
from .mosa_swin import MoSASwinBlock, MoSAWindowAttention
from .mosa_vit import ImageClassifierHost, MoSAViTAttention, MoSAViTLayer
from .split_dropout_vit import SplitDropoutViT

__all__ = [
    'ImageClassifierHost', 'MoSASwinBlock', 'MoSAViTAttention',
    'MoSAViTLayer', 'MoSAWindowAttention', 'SplitDropoutViT'
]
