# Copyright (c) mmext contributors. All rights reserved.
"""Tiny mmpretrain classifiers, plain and tuned with MoSA."""
from typing import Any, List

import torch
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.structures import DataSample

from mmext.registry import MODELS

WIDTH, CLASSES = 16, 5


def vit(layers: int = 2, **backbone: Any) -> dict:
    """Config of a ViT of 16 pixels in four patches."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=WIDTH, num_layers=layers, num_heads=2,
                      feedforward_channels=32),
            img_size=16, patch_size=8, **backbone),
        head=dict(type='LinearClsHead', num_classes=CLASSES,
                  in_channels=WIDTH))


def swin(**backbone: Any) -> dict:
    """Config of a Swin of 32 pixels in two stages."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='SwinTransformer',
            arch=dict(embed_dims=WIDTH, depths=[2, 2], num_heads=[2, 4]),
            img_size=32, patch_size=4, window_size=4, out_indices=(1, ),
            **backbone),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES,
                  in_channels=2 * WIDTH))


def adaptformer(**options: Any) -> dict:
    """Config of an adapter of width 4 without dropout."""
    return dict(dict(type='AdaptFormer', bottleneck=4, drop_rate=0.),
                **options)


def build(module: Any = None, adapter: Any = None, perturb: bool = False,
          double: bool = True, seed: int = 0, **options: Any):
    """A ``MoSAModel``; ``perturb`` moves its adapters off their start."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmpretrain')
    torch.manual_seed(seed)
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=module or vit(),
             adapter=adapter or adaptformer(), **options))
    if double:
        model.double()
    if perturb:
        move(model)
    return model


@torch.no_grad()
def move(model: torch.nn.Module, scale: float = 0.3) -> None:
    """Random values in everything that is trained."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * scale)


def batch(model: Any, count: int = 4, size: int = 16) -> tuple:
    """Images and annotated samples in the model's dtype."""
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, size, size, generator=generator, dtype=dtype)
    return x, labels(count)


def labels(count: int) -> List[DataSample]:
    return [DataSample().set_gt_label(i % CLASSES) for i in range(count)]


def total_loss(model: Any, x: torch.Tensor, samples: list) -> torch.Tensor:
    """Sum of all terms of one training forward."""
    return model.parse_losses(model(x, samples, mode='loss'))[0]
