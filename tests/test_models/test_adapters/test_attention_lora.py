# Copyright (c) mmext contributors. All rights reserved.
"""LoRA and MoSL in torch's attention, and in mmseg's SegFormer and ViT."""
import pytest
import torch
import torch.nn as nn

from mmext.models.adapters import AdaptedAttention, AttentionLoRA, attach
from mmext.models.adapters.split_options import SplitOptions

D, HEADS, B, T, S = 8, 2, 4, 5, 3


def attention(letters='qkvo', split=SplitOptions(), seed=0, **options):
    """An adapted attention away from its start, and a copy folded."""
    own = {k: options.pop(k) for k in ('o_reads', 'rank') if k in options}
    torch.manual_seed(seed)
    module = nn.MultiheadAttention(D, HEADS, **options).double()
    nn.init.normal_(module.in_proj_bias)
    adapter = AttentionLoRA(module, letters, split, 'a',
                            **dict(dict(rank=2), **own)).double()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.5)
    attach(module, AdaptedAttention, 'default', adapter)
    return module.eval()


def folded(module):
    plain = nn.MultiheadAttention(
        D, HEADS, batch_first=module.batch_first).double()
    state = {k: v for k, v in module.state_dict().items() if 'mosa' not in k}
    plain.load_state_dict({**state, **module.adapter.folded(module)})
    return plain.eval()


MASKS = dict(
    none=dict(),
    padding=dict(key_padding_mask=torch.arange(S).expand(B, S) >=
                 torch.tensor([3, 2, 1, 3])[:, None]),
    bias=dict(attn_mask=torch.linspace(-1, 1, T * S).double().view(T, S)),
    both=dict(
        attn_mask=(torch.arange(B * HEADS * T * S) % 7 == 0).view(
            B * HEADS, T, S),
        key_padding_mask=torch.arange(S).expand(B, S) > 1))


@pytest.mark.parametrize('masks', MASKS)
@pytest.mark.parametrize('batch_first', [False, True])
@pytest.mark.parametrize('need_weights', [False, True])
def test_equals_torch_s_attention_with_folded_weights(
        masks, batch_first, need_weights):
    module = attention(batch_first=batch_first)
    tokens = [torch.randn(B, n, D).double() for n in (T, S, S)]
    if not batch_first:
        tokens = [x.transpose(0, 1) for x in tokens]
    options = dict(MASKS[masks], need_weights=need_weights)
    actual = module(*tokens, **options)
    expected = folded(module)(*tokens, **options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('letters', ['q', 'kv', 'o'])
def test_some_letters(letters):
    module = attention(letters)
    x = torch.randn(T, B, D).double()
    torch.testing.assert_close(
        module(x, x, x)[0], folded(module)(x, x, x)[0], rtol=0, atol=1e-12)
    assert set(module.adapter._modules) == set(letters)
    module.mosa.enabled = False
    plain = nn.MultiheadAttention(D, HEADS).double().eval()
    plain.load_state_dict(
        {k: v for k, v in module.state_dict().items() if 'mosa' not in k})
    assert torch.equal(module(x, x, x)[0], plain(x, x, x)[0])


def test_o_reads_the_queries_input():
    """The published quirk: another function, which cannot be folded."""
    quirk, plain = attention(o_reads='input'), attention()
    x = torch.randn(T, B, D).double()
    with torch.no_grad():
        plain.adapter.o.B.merge_mode = quirk.adapter.o.B.merge_mode
        difference = quirk(x, x, x)[0] - plain(x, x, x)[0]
        without = attention('qkv')
        without.load_state_dict(
            {k: v for k, v in quirk.state_dict().items() if '.o.' not in k})
        expected = without(x, x, x)[0] + quirk.adapter.o(x)
    assert difference.abs().max() > 1e-3
    torch.testing.assert_close(
        quirk(x, x, x)[0], expected, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match='cannot be folded'):
        quirk.adapter.folded(quirk)


def test_what_is_refused():
    for options in (dict(kdim=4), dict(add_bias_kv=True),
                    dict(add_zero_attn=True)):
        with pytest.raises(ValueError, match='same width'):
            AttentionLoRA(
                nn.MultiheadAttention(D, HEADS, **options), 'q',
                SplitOptions(), 'a')
    with pytest.raises(ValueError, match="'context' or 'input'"):
        AttentionLoRA(
            nn.MultiheadAttention(D, HEADS), 'o', SplitOptions(), 'a',
            o_reads='both')
    module = attention()
    x = torch.randn(T, D).double()
    with pytest.raises(ValueError, match='batches'):
        module(x, x, x)


# In mmseg ------------------------------------------------------------------

pytest.importorskip('mmseg')

from mmext.models.adapters import (load_adapter, model_from_adapter,  # noqa
                                   save_adapter, slots)
from mmext.registry import MODELS  # noqa: E402
from ...toy_models import init_scope  # noqa: E402
from .test_segmentation import batch, build, tuned  # noqa: E402

LORA = dict(type='LoRA', rank=2, targets='qkvo')
VIT = dict(
    type='VisionTransformer', img_size=32, patch_size=8, embed_dims=16,
    num_layers=2, num_heads=2, mlp_ratio=2, out_indices=(0, 1, 1, 1))
SEGFORMER = tuned()['module']['backbone']
SWIN = dict(
    type='SwinTransformer', pretrain_img_size=32, embed_dims=8, patch_size=4,
    window_size=4, mlp_ratio=2, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
BACKBONES = dict(segformer=None, vit=VIT, swin=SWIN)


def lora(backbone='segformer', perturb=True, **options):
    """A tuned backbone, with a decode head where it is SegFormer's."""
    options = dict(dict(adapter=LORA, split='both', num_modules=2), **options)
    if BACKBONES[backbone] is None:
        return build(perturb=perturb, **options)
    from ...tiny_classifiers import move
    init_scope()
    torch.manual_seed(0)
    host = MODELS.build(dict(BACKBONES[backbone]))
    model = MODELS.build(
        dict(type='mmext.MoSAModel', module=host, num_passes=1,
             train_head=False, **options))
    if perturb:
        move(model, 0.1)
    return model.double()


def features(model, x):
    host = getattr(model, 'module', model)
    with torch.no_grad():
        return host.extract_feat(x) if hasattr(host, 'extract_feat') \
            else host(x)


def close(first, second, atol=1e-12):
    assert len(first) == len(second)
    for a, b in zip(first, second):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


@pytest.mark.stack_subset
@pytest.mark.parametrize('backbone', BACKBONES)
def test_a_new_adapter_adds_nothing(backbone):
    """Property 6 for MoSL on SegFormer and on mmseg's ViT and Swin."""
    model = lora(backbone, perturb=False).eval()
    ends = ('w_msa.qkv', 'w_msa.proj') if backbone == 'swin' else 'attn.attn'
    assert all(name.endswith(ends) for name in model.adapter_modules())
    x, _ = batch()
    actual = features(model, x)
    with model.disable_adapters():
        close(actual, features(model, x))


@pytest.mark.parametrize('backbone', BACKBONES)
@pytest.mark.parametrize('merge_first', [False, True])
def test_fold(backbone, merge_first):
    """MoSL goes into the attentions; no part of mmext is left."""
    model = lora(backbone).eval()
    x, _ = batch()
    expected = features(model, x)
    with model.disable_adapters():
        assert not torch.equal(features(model, x)[0], expected[0])
    if merge_first:
        model.merge()
    host = model.merge_and_unload()
    assert not list(slots(host))
    assert all('mmext' not in type(m).__module__ for m in host.modules())
    close(features(host, x), expected)


@pytest.mark.parametrize('backbone', BACKBONES)
def test_what_cannot_be_folded(backbone):
    """The published ``o`` branch, on every block; the model stays."""
    model = lora(backbone, adapter=dict(LORA, o_reads='input')).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, _ = batch()
    expected = features(model, x)
    with pytest.raises(RuntimeError, match='cannot be folded'):
        model.merge_and_unload()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(v, before[k]) for k, v in after.items())
    close(features(model, x), expected, 0)
    for name, adapter in model.adapter_modules().items():
        for part in adapter.modules():
            if hasattr(part, 'o_reads'):
                part.o_reads = 'context'
    assert not torch.allclose(features(model, x)[-1], expected[-1])


def quiet(model):
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout,
                               nn.Dropout2d)):
            module.eval()
        if type(module).__name__ == 'DropPath':
            module.drop_prob = 0.
    return model


@pytest.mark.parametrize('storage', ['compact', 'replicated'])
def test_two_passes(storage):
    """Property 16: batched or in sequence, gradients on drawn masks only."""
    results = []
    for batched in (True, False):
        model = quiet(lora(batch_passes=batched, storage=storage))
        x, samples = batch()
        table = model.draw()
        losses = model(x, samples, mode='loss')
        model.parse_losses(losses)[0].backward()
        results.append((losses, {n: p.grad for n, p
                                 in model.named_parameters()
                                 if p.grad is not None}))
        names = {id(v): k for k, v in model.split_layers().items()}
        for draw, row in zip(model.drawing.draws, table.t()):
            layer, drawn = draw.layer, set(row.tolist())
            # of one token attention is constant: no gradient for q and k
            moved = names[id(layer)].split('.')[-2] in 'vo'
            for k in range(layer.num_modules):
                mine = layer.owner == k
                if storage == 'replicated':
                    grad = layer.weights[k].grad
                    assert not grad[~mine].any()
                else:
                    grad = layer.weight.grad
                if k not in drawn or moved:
                    assert bool(grad[mine].any()) == (k in drawn)
    for first, second in zip(*results):
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=0, atol=1e-11)


def test_activation_checkpointing():
    """Property 22: ``with_cp=True`` of SegFormer."""
    found = []
    for with_cp in (False, True):
        model = quiet(build(adapter=LORA, split='both', num_modules=2,
                            backbone=dict(SEGFORMER, with_cp=with_cp)))
        x, samples = batch()
        model.draw()
        model.parse_losses(model(x, samples, mode='loss'))[0].backward()
        found.append({n: p.grad for n, p in model.named_parameters()
                      if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=0, atol=1e-12)


def test_files(tmp_path):
    """Property 25: both flavours, onto a fresh host and beside another."""
    model = lora()
    x, _ = batch()
    expected = features(model.eval(), x)
    host = {k: v for k, v in model.state_dict().items() if '.mosa.' not in k}
    for merged in (False, True):
        path = tmp_path / str(merged)
        save_adapter(model, path, merged=merged)
        fresh = MODELS.build(tuned()['module']).double()
        fresh.load_state_dict(host)
        # a new wrapper holds its adapters in float32
        close(features(model_from_adapter(fresh, path).double().eval(), x),
              expected, 1e-7)
    other = lora(perturb=False)
    other.load_state_dict({**other.state_dict(), **host})
    load_adapter(other, tmp_path / 'True', name='second')
    other.set_active('second')
    close(features(other.eval(), x), expected)


def test_autocast():
    """Under CPU autocast, and a float32 branch beside bfloat16 weights."""
    module = attention().float()
    x = torch.randn(T, B, D)
    expected = module(x, x, x)[0]
    with torch.autocast('cpu', torch.bfloat16):
        out = module(x, x, x)[0]
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
    module.bfloat16().adapter.float()
    out = module(*[x.bfloat16()] * 3)[0]
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)
