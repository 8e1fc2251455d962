# Copyright (c) mmext contributors. All rights reserved.
"""Tiny versions of stock mmseg segmentors, with random weights."""
from copy import deepcopy

import torch
import torch.nn as nn
from mmengine.config import ConfigDict
from mmseg.registry import MODELS

from .toy_models import MEAN, STD, init_scope

NORM = dict(type='BN', requires_grad=True)
_LOSS = dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)


def _resnet(dilations, strides) -> dict:
    return dict(
        type='ResNetV1c', depth=18, stem_channels=8, base_channels=8,
        num_stages=4, out_indices=(0, 1, 2, 3), dilations=dilations,
        strides=strides, norm_cfg=NORM, norm_eval=False, style='pytorch',
        contract_dilation=True)


def _head(kind: str, channels: int, **kwargs) -> dict:
    options = dict(
        type=kind, channels=channels, dropout_ratio=0.1, num_classes=19,
        norm_cfg=NORM, align_corners=False, loss_decode=_LOSS)
    return dict(options, **kwargs)


_PARTS = dict(
    segformer=lambda: (dict(
        type='MixVisionTransformer', in_channels=3, embed_dims=8,
        num_stages=4, num_layers=[1, 1, 1, 1], num_heads=[1, 2, 2, 4],
        patch_sizes=[7, 3, 3, 3], sr_ratios=[8, 4, 2, 1],
        out_indices=(0, 1, 2, 3), mlp_ratio=2, qkv_bias=True,
        drop_rate=0., attn_drop_rate=0., drop_path_rate=0.1),
                       _head('SegformerHead', 16,
                             in_channels=[8, 16, 16, 32],
                             in_index=[0, 1, 2, 3])),
    deeplabv3plus=lambda: (_resnet((1, 1, 2, 4), (1, 2, 1, 1)),
                           _head('DepthwiseSeparableASPPHead', 16,
                                 in_channels=64, in_index=3,
                                 dilations=(1, 2, 3, 4), c1_in_channels=8,
                                 c1_channels=4)),
    upernet=lambda: (_resnet((1, 1, 1, 1), (1, 2, 2, 2)),
                     _head('UPerHead', 16, in_channels=[8, 16, 32, 64],
                           in_index=[0, 1, 2, 3],
                           pool_scales=(1, 2, 3, 6))),
    # A head without any dropout.
    fcn=lambda: (_resnet((1, 1, 1, 1), (1, 2, 2, 2)),
                 _head('FCNHead', 16, in_channels=64, in_index=3,
                       num_convs=1, concat_input=False, dropout_ratio=0)),
)
NAMES = tuple(_PARTS)


def tiny_config(name: str, auxiliary: bool = False) -> dict:
    """Config of one of :data:`NAMES`, with 19 classes.

    Args:
        name (str): Which architecture.
        auxiliary (bool): With an auxiliary FCN head, as most stock configs.
    """
    backbone, head = _PARTS[name]()
    config = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True,
            pad_val=0, seg_pad_val=255),
        pretrained=None,
        backbone=backbone,
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'))
    if auxiliary:
        config['auxiliary_head'] = _head(
            'FCNHead', 8, in_channels=8, in_index=0, num_convs=1,
            concat_input=False)
    return deepcopy(config)


def build_tiny(name: str, **kwargs) -> nn.Module:
    """Build one in mmseg's scope, in eval mode, with lively weights."""
    init_scope()
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(tiny_config(name, **kwargs))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # mmseg starts classifiers near zero: labels would hardly differ.
        for head in (model.decode_head, ):
            weight = head.conv_seg.weight
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model
