# Copyright (c) mmext contributors. All rights reserved.
"""Networks of BiCross against the recorded arrays; test_bicross.py has them.

Properties H6 to H9 of the method's specification.
"""
import re

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip('mmseg')
timm = pytest.importorskip('timm')

from mmext.models.depth import (DPTDepthHead, DPTHybrid, DPTReassemble,
                                DPTUncertaintyHead, SpikeSE, SpikeUNet,
                                SpikeUSENet, affine_inverse, resize_pos_embed)
from .bicross_files import load

# Losses are not needed here, but a head builds one.
NO_LOSS = dict(type='torch.nn.Identity')
OUTDOOR, INDOOR = (6.016e-5, 0.00579), (3.05e-4, 0.1378)
CLASSIFIER = 768 * 1000 + 1000
LEVELS = range(1, 5)


def tensor(array):
    """float32, whatever was stored."""
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def close(actual, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, rtol=rtol, atol=atol)


def sums_close(actual, expected):
    """Sums of many terms: what cancels leaves the rounding of the largest."""
    largest = float(np.abs(expected).max())
    close(actual, expected, atol=max(2e-6, 1e-6 * largest))


def near(actual, expected, tolerance=1e-4):
    """Within ``tolerance`` of the largest entry."""
    expected = np.asarray(expected)
    error = np.abs(actual.detach().numpy() - expected).max()
    assert error <= tolerance * np.abs(expected).max()


def grids(data, start):
    """Arrays whose names end in the grid of their tokens, by that grid."""
    found = {}
    for key, value in data.items():
        size = re.fullmatch(rf'{start}_(\d+)x(\d+)', key)
        if size:
            found[tuple(int(n) for n in size.groups())] = tensor(value)
    return found


def fill(module):
    """Weights by the rule of the recording: shape and role decide."""
    for name, p in module.named_parameters():
        n = p.numel()
        k = (np.arange(1, n + 1, dtype=np.uint64) * 2654435761) % 2**32
        k ^= k >> 16
        k = (k * 2246822519) % 2**32
        k ^= k >> 13
        u = k / 2**32
        if name.endswith(('cls_token', 'pos_embed')):
            value = 0.2 * (2 * u - 1)
        elif p.dim() > 1:
            value = (2 * u - 1) * np.sqrt(3 / (n // p.shape[0]))
        elif name.endswith('weight'):
            value = 1 + 0.2 * (u - 0.5)
        else:
            value = 0.2 * (u - 0.5)
        with torch.no_grad():
            p.copy_(tensor(value).view_as(p))


def rename(key):
    """Recorded name of a decoder's weight -> ours; None for the head u."""
    pairs = [('refinenet', 'fusion_'), ('resConfUnit', 'unit'),
             ('out_conv', 'out'), ('output_conv', 'output')]
    key = key[len('w.scratch.'):]
    for old, new in pairs:
        key = key.replace(old, new)
    if key.startswith('layer'):
        key = f'reduce_{key[len("layer")]}.weight'
    return key


def decoder(data):
    widths = [data[f'in.layer_{i}'].shape[1] for i in LEVELS]
    channels = data['w.scratch.layer1_rn.weight'].shape[0]
    hidden = data['w.scratch.output_conv.2.weight'].shape[0]
    head = DPTDepthHead(
        widths,
        channels,
        hidden,
        reassemble=None,
        scale=float(data['scale']),
        shift=float(data['shift']),
        loss_depth=NO_LOSS)
    head.load_state_dict({
        rename(key): tensor(value)
        for key, value in data.items() if key.startswith('w.scratch.')
    })
    uncertainty = DPTUncertaintyHead(channels, hidden, NO_LOSS)
    start = 'w.uncertaity_head.'
    uncertainty.load_state_dict({
        f'output.{key[len(start):]}': tensor(value)
        for key, value in data.items() if key.startswith(start)
    })
    return head, uncertainty


def test_h6_decoder():
    """Property H6: paths, raw value, depth, uncertainty, input gradients."""
    data = load('dpt_decoder')
    head, uncertainty_head = decoder(data)
    levels = [tensor(data[f'in.layer_{i}']).requires_grad_() for i in LEVELS]
    paths = head.decode(levels)
    for index, path in enumerate(paths, 1):
        sums_close(path, data[f'out.path_{index}'])
    sums_close(head.output(paths[0]), data['out.inv_raw'])
    depth, uncertainty = head.depth(paths[0]), uncertainty_head(paths[0])
    close(depth[:, 0], data['out.depth'])
    sums_close(uncertainty[:, 0], data['out.uncertainty'])
    probe = depth.clamp(max=500).log().mean() + \
        uncertainty.square().mean() + paths[3].mean()
    close(probe, data['probe_loss'])
    probe.backward()
    for index, level in enumerate(levels, 1):
        near(level.grad, data[f'grad.layer_{index}'])


def test_h9_inversion():
    """Property H9: depth of probe values for both pairs of constants."""
    data = load('dpt_decoder')
    raw = tensor(data['inversion_raw'])
    for name, constants in (('outdoor', OUTDOOR), ('indoor', INDOOR)):
        close(affine_inverse(raw, *constants), data[f'inversion_{name}'])


def test_h7_reassemble():
    """Property H7: levels 3 and 4, position embedding, stem of spikes."""
    data = load('dpt_reassemble')
    grid = tuple(int(n) for n in data['grid_hw'])
    width = data['tokens_block_c'].shape[2]
    outs = [data[f'out.layer_{i}'].shape[1] for i in (3, 4)]
    module = DPTReassemble((width, width), outs, factors=(1, 0.5))
    state = {}
    for index in (0, 1):
        start = f'w.act_postprocess{index + 3}.'
        for old, new in (('0.project.0', 'project'), ('3', 'width'),
                         ('4', 'resample')):
            for end in ('weight', 'bias'):
                if f'{start}{old}.{end}' in data:
                    state[f'levels.{index}.{new}.{end}'] = tensor(
                        data[f'{start}{old}.{end}'])
    module.load_state_dict(state)
    tokens = [tensor(data[f'tokens_block_{block}']) for block in 'cd']
    found = module([(t[:, 1:].transpose(1, 2).unflatten(2, grid), t[:, 0])
                    for t in tokens])
    sums_close(found[0], data['out.layer_3'])
    sums_close(found[1], data['out.layer_4'])
    (old, embed), = grids(data, 'pos_embed').items()
    close(resize_pos_embed(embed, old, grid), data['pos_embed_resized'])
    others = grids(data, 'pos_embed_resized')
    assert others
    for size, expected in others.items():
        close(resize_pos_embed(embed, old, size), expected)
    stem = timm.layers.StdConv2dSame(
        *data['stem_weight'].shape[1::-1],
        kernel_size=7,
        stride=2,
        eps=float(data['stem_eps']))
    stem.load_state_dict(dict(weight=tensor(data['stem_weight'])))
    sums_close(stem(tensor(data['stem_in'])), data['stem_out'])
    spiking = DPTHybrid('tiny', data['stem_in'].shape[1], img_size=32)
    assert type(spiking.stem) is type(stem) and spiking.stem.eps == stem.eps
    assert spiking.stem.kernel_size == stem.kernel_size == (7, 7)
    assert spiking.stem.stride == stem.stride == (2, 2)


def full_width(data, modality):
    """Input, backbone, decoder with depth head, uncertainty head."""
    size = tuple(int(n) for n in data['input_hw'])
    if modality == 'rgb':
        x = tensor(data['rgb_in'])
    else:
        bits = np.unpackbits(data['spike_in_bits'])
        channels = bits.size // (size[0] * size[1])
        x = 2 * tensor(bits.reshape(1, channels, *size)) - 1
    assert tuple(x.shape[2:]) == size
    parts = nn.ModuleList([
        DPTHybrid(in_channels=x.shape[1]),
        DPTDepthHead(loss_depth=NO_LOSS),
        DPTUncertaintyHead(loss_uncertainty=NO_LOSS)
    ])
    fill(parts)
    with torch.no_grad():
        last = parts[1].output[-1]
        last.weight *= 30
        last.bias.fill_(800)
    return x, parts.eval()


@pytest.mark.parametrize('modality', ['rgb', 'spike'])
@torch.no_grad()
def test_h8_full_width(modality):
    """Property H8: the full-size networks with formula weights."""
    data = load('dpt_hybrid_formula')
    x, parts = full_width(data, modality)
    count = sum(p.numel() for p in parts.parameters())
    assert count + CLASSIFIER == data[f'{modality}_n_params']
    backbone, head, uncertainty_head = parts
    levels = backbone(x)
    seen = dict(cls_token=backbone.class_token(levels))
    maps = head.reassemble(levels)
    seen.update({f'layer_{i}': maps[i - 1] for i in LEVELS})
    paths = head.decode(levels)
    seen.update({f'path_{i}': paths[i - 1] for i in LEVELS})
    seen['inv_raw'] = head.output(paths[0])
    seen['depth'] = head.depth(paths[0])[:, 0]
    seen['uncertainty'] = uncertainty_head(paths[0])[:, 0]
    names = {key for key in data if key.startswith(f'{modality}_')}
    names -= {f'{modality}_{name}' for name in ('in', 'in_bits', 'n_params')}
    assert names and names <= {f'{modality}_{name}' for name in seen}
    for name, value in seen.items():
        if f'{modality}_{name}' not in names:
            continue
        expected = data[f'{modality}_{name}']
        if name.startswith(('layer', 'path')):  # every n-th channel
            value = value[:, ::value.shape[1] // expected.shape[1]]
        near(value, expected)


def test_temporal_modules():
    """SE, UNet, USENet of the recording, and their sizes."""
    data = load('neuromorphic_heads')
    x = tensor(data['se_in']).requires_grad_()
    hidden, channels = data['se_w1'].shape
    module = SpikeSE(channels, channels // hidden)
    module.load_state_dict({
        'squeeze.weight': tensor(data['se_w1']),
        'excite.weight': tensor(data['se_w2'])
    })
    out = module(x)
    close(out, data['se_out'])
    out.square().mean().backward()
    near(x.grad, data['se_grad_in'])
    bits = data['unet_in_bits']
    shape = tuple(int(n) for n in data['unet_in_shape'])
    spikes = 2 * tensor(
        np.unpackbits(bits)[:np.prod(shape)].reshape(shape)) - 1
    for name, one in (('unet', SpikeUNet), ('usenet', SpikeUSENet)):
        module = one(shape[1], data[f'{name}_out'].shape[1]).eval()
        count = sum(p.numel() for p in module.parameters())
        assert count == data[f'{name}_n_params']
        fill(module)
        with torch.no_grad():
            near(module(spikes), data[f'{name}_out'])
    count = sum(p.numel() for p in SpikeSE().parameters())
    assert count == data['se_default_n_params']
