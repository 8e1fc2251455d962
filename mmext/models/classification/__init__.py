# Copyright (c) mmext contributors. All rights reserved.
"""Parts for mmpretrain classifiers."""
from .certified_ensemble import CertifiedEnsemble
from .lip_backbones import LipAlexNet, LipConv, LipLeNet, LipMLP, LipVGG
from .lip_heads import BoundMLPHead, LipClsHead
from .lipschitz_classifier import LipschitzClassifier
from .mosa_swin import MoSASwinBlock, MoSAWindowAttention
from .mosa_vit import (ImageClassifierHost, MoSABEiTLayer, MoSADeiT3Layer,
                       MoSAViTAttention, MoSAViTLayer)
from .split_dropout_vit import SplitDropoutViT

__all__ = [
    'BoundMLPHead', 'CertifiedEnsemble', 'ImageClassifierHost', 'LipAlexNet',
    'LipClsHead', 'LipConv', 'LipLeNet', 'LipMLP', 'LipVGG',
    'LipschitzClassifier', 'MoSABEiTLayer', 'MoSADeiT3Layer', 'MoSASwinBlock',
    'MoSAViTAttention', 'MoSAViTLayer', 'MoSAWindowAttention',
    'SplitDropoutViT'
]
