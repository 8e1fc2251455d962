# Copyright (c) mmext contributors. All rights reserved.
"""Converters of the pretrained backbones that the MoSA configs use."""
import hashlib

import numpy as np
import pytest
import torch

from mmext.utils.io import CheckpointError, check_md5
from mmext.utils.user_error import MissingFileError, UserError
from ..tool_fixtures import run_tool, tool

NPZ = 'model_converters/vit_npz_to_mmext'
SWIN = 'model_converters/swin_to_mmext'
HEADS, WIDTH = 2, 16


def vit():
    models = pytest.importorskip('mmpretrain.models')
    return models.VisionTransformer(
        arch=dict(embed_dims=WIDTH, num_layers=2, num_heads=HEADS,
                  feedforward_channels=32), img_size=32, patch_size=16)


def random(state_dict):
    return {k: torch.randn_like(v) if v.is_floating_point() else v
            for k, v in state_dict.items()}


def original_vit(state):
    """mmpretrain's names and layouts back to those of the npz file."""
    state = {k: v.numpy() for k, v in state.items()}
    out = {
        'cls': state['cls_token'],
        'embedding/kernel':
        state['patch_embed.projection.weight'].transpose(2, 3, 1, 0),
        'embedding/bias': state['patch_embed.projection.bias'],
        'Transformer/posembed_input/pos_embedding': state['pos_embed'],
        'Transformer/encoder_norm/scale': state['ln1.weight'],
        'Transformer/encoder_norm/bias': state['ln1.bias'],
        'head/kernel': np.zeros((WIDTH, 3)), 'pre_logits/bias': np.zeros(3),
    }
    for i in range(2):
        own, new = f'layers.{i}.', f'Transformer/encoderblock_{i}/'
        attention = f'{new}MultiHeadDotProductAttention_1/'
        for ours, theirs in (('ln1', 'LayerNorm_0'), ('ln2', 'LayerNorm_2')):
            out[f'{new}{theirs}/scale'] = state[f'{own}{ours}.weight']
            out[f'{new}{theirs}/bias'] = state[f'{own}{ours}.bias']
        for ours, number in (('ffn.layers.0.0', 0), ('ffn.layers.1', 1)):
            stem = f'{new}MlpBlock_3/Dense_{number}'
            out[f'{stem}/kernel'] = state[f'{own}{ours}.weight'].T
            out[f'{stem}/bias'] = state[f'{own}{ours}.bias']
        weight = state[f'{own}attn.qkv.weight']
        bias = state[f'{own}attn.qkv.bias']
        for j, letter in enumerate(('query', 'key', 'value')):
            part = slice(j * WIDTH, (j + 1) * WIDTH)
            out[f'{attention}{letter}/kernel'] = weight[part].T.reshape(
                WIDTH, HEADS, -1)
            out[f'{attention}{letter}/bias'] = bias[part].reshape(HEADS, -1)
        out[f'{attention}out/kernel'] = state[
            f'{own}attn.proj.weight'].T.reshape(HEADS, -1, WIDTH)
        out[f'{attention}out/bias'] = state[f'{own}attn.proj.bias']
    return out


def test_vit_npz(tmp_path):
    """Every tensor comes back, the classifier is dropped, the file fits;
    another file is refused by its checksum."""
    model = vit()
    expected = random(model.state_dict())
    arrays = original_vit(expected)
    source, target = tmp_path / 'vit.npz', tmp_path / 'vit.pth'
    np.savez(source, **arrays)
    text = run_tool(f'tools/{NPZ}.py', source, target, cwd=tmp_path, code=2)
    assert 'expected d9715d...' in text and not target.exists()
    module = tool(NPZ)
    module.main([str(source), str(target), '--md5', ''])
    converted = torch.load(target, weights_only=True)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[k], v) for k, v in expected.items())
    model.load_state_dict(converted, strict=True)

    with pytest.raises(UserError, match='other/kernel'):
        module.convert({**arrays, 'other/kernel': np.zeros(1)})
    del arrays['Transformer/encoderblock_1/MultiHeadDotProductAttention_1/'
               'key/bias']
    with pytest.raises(UserError, match='Block 1 lacks a bias'):
        module.convert(arrays)
    source.write_bytes(b'no archive')
    with pytest.raises(UserError, match='as npz'):
        module.main([str(source), str(target), '--md5', ''])


def merge_patches(x, norm, reduction):
    """Patch merging as the original does it: (B, H, W, C) tokens."""
    parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
    x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2],
                   x[:, 1::2, 1::2]], -1)
    assert torch.equal(x, torch.cat(parts, -1))
    x = torch.nn.functional.layer_norm(x, x.shape[-1:], *norm)
    return torch.nn.functional.linear(x, reduction)


def original_swin(state):
    """mmpretrain's names back to the original's; layouts are not undone."""
    out = {}
    for key, value in state.items():
        for new, old in (('patch_embed.projection', 'patch_embed.proj'),
                         ('stages.', 'layers.'), ('.w_msa.', '.'),
                         ('ffn.layers.0.0', 'mlp.fc1'),
                         ('ffn.layers.1', 'mlp.fc2'), ('norm1.', 'norm1.')):
            key = key.replace(new, old)
        out['norm' + key[5:] if key in ('norm1.weight', 'norm1.bias')
            else key] = value
    return out


def test_swin(tmp_path):
    """All names; the patch merging computes what the original computes."""
    models = pytest.importorskip('mmpretrain.models')
    swin = models.SwinTransformer(
        arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2]), img_size=32,
        patch_size=4, window_size=4, out_indices=(1, ))
    given = random(swin.state_dict())
    original = original_swin(given)
    assert 'norm.weight' in original
    source, target = tmp_path / 'swin.pth', tmp_path / 'out.pth'
    torch.save(dict(model={**original, 'head.weight': torch.zeros(3)}), source)
    text = run_tool(f'tools/{SWIN}.py', source, target, cwd=tmp_path, code=2)
    assert 'expected bf9cc1...' in text and not target.exists()
    module = tool(SWIN)
    module.main([str(source), str(target), '--md5', ''])
    converted = torch.load(target, weights_only=True)
    missing, unexpected = swin.load_state_dict(converted, strict=False)
    assert not unexpected
    assert all(key.endswith('relative_position_index') for key in missing)
    same = [k for k in converted if 'downsample' not in k]
    assert all(torch.equal(converted[k], given[k]) for k in same)

    x = torch.randn(2, 8, 8, 8)
    merging = swin.stages[0].downsample
    stem = 'layers.0.downsample.'
    expected = merge_patches(
        x, (original[f'{stem}norm.weight'], original[f'{stem}norm.bias']),
        original[f'{stem}reduction.weight'])
    actual, shape = merging(x.flatten(1, 2), (8, 8))
    torch.testing.assert_close(actual.view(2, *shape, -1), expected)
    with pytest.raises(UserError, match='other.weight'):
        module.convert({**original, 'other.weight': x})


def test_checksum(tmp_path):
    file = tmp_path / 'a'
    file.write_bytes(b'abc')
    digest = hashlib.md5(b'abc').hexdigest()
    check_md5(file, digest[:6].upper())
    check_md5(file, '')
    with pytest.raises(CheckpointError, match=digest):
        check_md5(file, '000')
    with pytest.raises(MissingFileError, match='no file'):
        check_md5(tmp_path / 'b', '')
