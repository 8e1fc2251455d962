# Copyright (c) mmext contributors. All rights reserved.
"""Tiny segmentors for tests, built from stock mmseg parts."""
from typing import Optional

import torch
import torch.nn as nn
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS

MEAN = [123.675, 116.28, 103.53]
STD = [58.395, 57.12, 57.375]


def init_scope() -> None:
    """Make mmseg the current default scope."""
    DefaultScope.get_instance('toy', scope_name='mmseg')
    if DefaultScope.get_current_instance() is None or \
            DefaultScope.get_current_instance().scope_name != 'mmseg':
        DefaultScope.get_instance(f'toy-{id(object())}', scope_name='mmseg')


@MODELS.register_module(force=True)
class ToyBackbone(BaseModule):
    """conv, batch norm, conv, group norm; stride 2."""

    def __init__(self, channels: int = 8, groups: int = 2,
                 eps: float = 1e-5, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(channels, eps=eps)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, channels, eps=eps)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.bn1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(x)).relu(), )


@MODELS.register_module(force=True)
class ToyHead(BaseDecodeHead):
    """One convolution before mmseg's dropout and classifier."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.conv_fuse = nn.Conv2d(self.in_channels, self.channels, 3,
                                   padding=1)

    def forward(self, inputs):
        return self.cls_seg(self.conv_fuse(inputs[-1]).relu())


def toy_config(channels: int = 8, num_classes: int = 5,
               dropout: float = 0.1, groups: int = 2, eps: float = 1e-5,
               test_cfg: Optional[dict] = None) -> dict:
    """Config of the toy segmentor."""
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(
            type='SegDataPreProcessor', mean=MEAN, std=STD, bgr_to_rgb=True),
        backbone=dict(type='ToyBackbone', channels=channels, groups=groups,
                      eps=eps),
        decode_head=dict(
            type='ToyHead', in_channels=channels, channels=channels,
            in_index=-1, num_classes=num_classes, dropout_ratio=dropout,
            align_corners=False,
            loss_decode=dict(type='CrossEntropyLoss')),
        train_cfg=dict(),
        test_cfg=test_cfg or dict(mode='whole'))


def build_toy(**kwargs) -> nn.Module:
    """Build the toy segmentor in mmseg's scope, in eval mode."""
    init_scope()
    torch.manual_seed(0)
    return MODELS.build(ConfigDict(toy_config(**kwargs))).eval()
