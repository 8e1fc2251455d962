# Copyright (c) mmext contributors. All rights reserved.
"""Baselines without modules: heads, biases, scales, fixed masks, all."""
import copy

import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmpretrain')

from mmext.models.adapters import MaskedLinear
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import (adaptformer, batch, build, move, total_loss,
                                 vit)
from .common import trainable


@pytest.mark.parametrize('adapter,expected', [
    (dict(type='LinearProbe'), lambda n: 'head' in n),
    (dict(type='FullFineTune'), lambda n: True),
    (dict(type='BitFit'), lambda n: 'head' in n or n.endswith('bias')),
    (dict(type='SSF'), lambda n: 'head' in n or '.mosa.' in n),
])
def test_baselines(adapter, expected):
    """What each plain baseline trains, by the same injection code."""
    model = build(adapter=adapter, num_modules=1, num_passes=1)
    names = [n for n, _ in model.named_parameters()]
    assert trainable(model) == [n for n in names if expected(n)]
    x, samples = batch(model)
    before = model.eval()(x).detach()
    with model.disable_adapters():
        assert torch.equal(model(x), before)
    total_loss(model.train(), x, samples).backward()
    assert all(p.grad is not None for n, p in model.named_parameters()
               if p.requires_grad)


def test_ssf_scales_and_shifts_every_layer():
    """Its formula on a convolution, a norm and a linear layer."""
    model = build(adapter=dict(type='SSF'), num_modules=1)
    move(model)
    layer = model.backbone.layers[0].attn.proj
    x = torch.randn(3, 16, dtype=torch.float64)
    part = layer.mosa['default']
    expected = nn.functional.linear(x, layer.weight, layer.bias) \
        * part.scale + part.shift
    torch.testing.assert_close(layer(x), expected)
    conv = model.backbone.patch_embed.projection
    image = torch.randn(1, 3, 16, 16, dtype=torch.float64)
    part = conv.mosa['default']
    expected = nn.functional.conv2d(
        image, conv.weight, conv.bias, conv.stride) * part.scale.view(
            1, -1, 1, 1) + part.shift.view(1, -1, 1, 1)
    torch.testing.assert_close(conv(image), expected)


def test_fixed_mask_baseline():
    """Specification a.8: only masked elements of an adapter move, in
    training and in evaluation, whatever the weight decay."""
    model = build(adapter=adaptformer(fixed_mask=True), num_passes=1)
    layers = {
        n: m
        for n, m in model.named_modules() if isinstance(m, MaskedLinear)
    }
    assert len(layers) == 4 and not model.split_layers()
    before = {
        n: m.value_of('weight').detach().clone()
        for n, m in layers.items()
    }
    x, samples = batch(model)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=0.1,
        weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        total_loss(model.train(), x, samples).backward()
        optimizer.step()
    for name, layer in layers.items():
        size = layer.weight.numel()
        assert int(layer.weight_mask.sum()) == size - int(0.75 * size)
        moved = layer.value_of('weight') != before[name]
        assert not moved[~layer.weight_mask].any()
        assert moved[layer.weight_mask].any()
    copied = copy.deepcopy(model)
    assert torch.equal(copied.eval()(x), model.eval()(x))


def test_norms_that_ssf_does_not_know():
    """The channels of ConvNeXt's norm are on one axis or another."""
    host = dict(
        type='ImageClassifier',
        backbone=dict(
            type='ConvNeXt',
            arch=dict(depths=[1, 1], channels=[4, 8]),
            out_indices=(1, )),
        head=dict(type='LinearClsHead', num_classes=5, in_channels=8))
    with pytest.raises(ConfigError, match='LayerNorm2d'):
        build(host, dict(type='SSF'))


def test_layers_that_only_lend_their_weights_get_no_scale():
    """BEiT reads the weights of ``qkv``; what is behind it would idle."""
    host = vit(use_rel_pos_bias=True)
    host['backbone'].update(type='BEiTViT')
    model = build(host, dict(type='SSF'), perturb=True)
    assert not any('qkv' in name for name in model.adapter_modules())
    x, samples = batch(model)
    total_loss(model.train(), x, samples).backward()
    assert all(p.grad is not None for a in model.adapter_modules().values()
               for p in a.parameters())
