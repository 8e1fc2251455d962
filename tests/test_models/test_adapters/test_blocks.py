# Copyright (c) mmext contributors. All rights reserved.
"""Adapters in the blocks of several hosts: DINOv2, Swin, BEiT, DeiT-3."""
import pytest
import torch
import torch.nn as nn

pytest.importorskip('mmpretrain')

from mmext.models.adapters import slots
from mmext.utils.user_error import ConfigError
from ...tiny_classifiers import (adaptformer, batch, build, move, swin,
                                 total_loss, vit)


@pytest.mark.parametrize('layer_scale', [0., 1e-5])
@pytest.mark.parametrize('style', [
    adaptformer(),
    dict(type='Pfeiffer', bottleneck=4),
    dict(type='Houlsby', bottleneck=4),
    dict(type='LoRA', rank=4, targets='qkvo')
])
def test_dino(style, layer_scale):
    """DINOv2's layer scale does not shrink a bottleneck adapter."""
    module = vit(layer_scale_init_value=layer_scale)
    model = build(module, adapter=style, perturb=True)
    x, samples = batch(model)
    total_loss(model.train(), x, samples).backward()
    with torch.no_grad(), model.disable_adapters():
        plain = model.eval()(x)
    moved = float((model(x) - plain).detach().abs().max())
    assert moved > 1e-3 if style['type'] != 'LoRA' or not layer_scale \
        else moved > 0


def test_swiglu_feed_forward():
    """ViT-g's feed-forward part; its residual is its own."""
    backbone = dict(layer_cfgs=dict(ffn_type='swiglu_fused'))
    for style in (adaptformer(), dict(type='Pfeiffer', bottleneck=4)):
        model = build(vit(**backbone), adapter=style)
        x, _ = batch(model)
        with torch.no_grad():
            actual = model.eval()(x)
            with model.disable_adapters():
                torch.testing.assert_close(actual, model(x))


def test_swin_shares_stochastic_depth():
    """Specification a.1: a dropped branch takes its adapter with it."""
    model = build(swin(), perturb=True)
    block = model.backbone.stages[0].blocks[0]
    model.train()
    model.draw(1)
    block.ffn.dropout_layer = nn.Dropout(p=1.)
    block.attn.drop = nn.Dropout(p=1.)
    x = torch.randn(2, 64, 16, dtype=torch.float64)
    torch.testing.assert_close(block(x, (8, 8)), x)


def test_swin_refuses_other_styles():
    with pytest.raises(ValueError, match='carries AdaptFormer'):
        build(swin(), adapter=dict(type='Houlsby', bottleneck=4))


@pytest.mark.stack_subset
@pytest.mark.parametrize('kind, backbone', [
    ('DeiT3', {}),
    ('BEiTViT', dict(use_abs_pos_emb=True, use_rel_pos_bias=True)),
    ('BEiTViT',
     dict(
         use_shared_rel_pos_bias=True,
         use_rel_pos_bias=False,
         layer_scale_init_value=0.1)),
])
@pytest.mark.parametrize('style', ['AdaptFormer', 'Pfeiffer', 'Houlsby'])
def test_relatives_of_vit(kind, backbone, style):
    """A new adapter changes nothing; all of it is trained by two passes."""
    host = vit(**backbone)
    host['backbone'].update(type=kind)
    model = build(host, dict(type=style, bottleneck=4))
    x, samples = batch(model)
    with torch.no_grad(), model.disable_adapters():
        expected = model.eval()(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    move(model)
    total_loss(model.train(), x, samples).backward()
    inside = [
        p for a in model.adapter_modules().values() for p in a.parameters()
    ]
    assert inside and all(p.grad is not None for p in inside)
    lora = dict(type='LoRA', rank=2, targets='qkvo')
    if kind == 'DeiT3':
        assert len(build(host, lora).split_layers()) == 2 * len('qkvo')
    else:
        with pytest.raises(ConfigError, match='needs. Use AdaptFormer'):
            build(host, lora)


def test_half_precision_backbone():
    """Adapters stay in float32 beside a bfloat16 host."""
    model = build(double=False, perturb=True)
    adapters = {id(p) for _, slot in slots(model) for p in slot.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.data = parameter.data.bfloat16()
    x = torch.randn(2, 3, 16, 16).bfloat16()
    model.train().draw(1)
    out = model.backbone(x)[-1]
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    grads = [p.grad for p in model.parameters() if id(p) in adapters]
    assert all(g.dtype == torch.float32 for g in grads if g is not None)
