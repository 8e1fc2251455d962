# Copyright (c) mmext contributors. All rights reserved.
"""Checkpoints of timm, isl-org/DPT and BiCross -> BiCrossDepthEstimator.

``dpt_hybrid_keys.json`` lists the keys and shapes of the real files, in
three groups; the sum of its shapes is the published number of parameters.
"""
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from mmengine.runner.checkpoint import load_checkpoint

from mmext.utils.config_build import meta_parameters
from mmext.utils.user_error import UserError
from tests.tiny_depth import depth_model

pytest.importorskip('timm')
pytest.importorskip('mmseg')
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STEM = 'backbone.vit.patch_embed.backbone.stem.conv.weight'
IMAGENET_STEM = 'patch_embed.backbone.stem.conv.weight'


@pytest.fixture(scope='module')
def tool():
    path = ROOT / 'tools' / 'model_converters' / 'dpt_to_mmext.py'
    spec = importlib.util.spec_from_file_location('dpt_to_mmext', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def keys():
    return json.loads((HERE / 'dpt_hybrid_keys.json').read_text())


@pytest.fixture(scope='module')
def expected():
    """Shapes of the full model, without storage."""
    with meta_parameters():
        model = depth_model(name='dpt-hybrid')
    return {k: tuple(v.shape) for k, v in model.state_dict().items()}


def synthetic(keys, kind, channels=3):
    """A checkpoint with the real keys and shapes; each tensor has a number.

    A tensor is one number, expanded: it takes no room, in memory and file.
    """
    pairs = [(key, shape) for key, shape in keys['timm']]
    if kind != 'timm':
        pairs = [(f'pretrained.model.{key}', shape) for key, shape in pairs]
        pairs += keys['decoder']
    if kind == 'bicross':
        pairs += keys['uncertainty']
    state = {
        key: torch.tensor(float(number)).expand(shape)
        for number, (key, shape) in enumerate(pairs)
    }
    stem = next(key for key in state if key.endswith(IMAGENET_STEM))
    if channels != 3:
        state[stem] = state[stem][:, :1].expand(-1, channels, -1, -1)
    return state


def test_the_list_is_the_published_network(keys):
    total = sum(
        math.prod(shape) for group in keys.values() for _, shape in group)
    assert total == 123_478_954


@pytest.mark.parametrize('kind, wrapper, parts', [
    ('timm', None, ('backbone.', )),
    ('dpt', 'model', ('backbone.', 'decode_head.')),
    ('bicross', 'model_state_dict', ('', )),
])
def test_real_keys_and_shapes(tool, keys, expected, kind, wrapper, parts,
                              tmp_path):
    state = synthetic(keys, kind)
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    torch.save({wrapper: state} if wrapper else state, source)
    tool.main([str(source), str(target)])
    found = torch.load(target, weights_only=True)
    assert found['meta']['converted_from']['kind'] == kind
    shapes = {k: tuple(v.shape) for k, v in found['state_dict'].items()}
    assert shapes == {
        key: shape
        for key, shape in expected.items() if key.startswith(parts)
    }
    # every tensor went to its own place, once
    numbers = [v.flatten()[0].item() for v in found['state_dict'].values()]
    assert len(set(numbers)) == len(numbers)


def test_places_of_tensors_of_equal_shape(tool, keys):
    state = synthetic(keys, 'bicross')
    found = tool.convert(state)
    pairs = {
        'pretrained.model.blocks.7.attn.qkv.bias':
        'backbone.vit.blocks.7.attn.qkv.bias',
        'pretrained.act_postprocess3.0.project.0.weight':
        'decode_head.reassemble.levels.2.project.weight',
        'pretrained.act_postprocess4.3.bias':
        'decode_head.reassemble.levels.3.width.bias',
        'pretrained.act_postprocess4.4.bias':
        'decode_head.reassemble.levels.3.resample.bias',
        'scratch.layer4_rn.weight': 'decode_head.reduce_4.weight',
        'scratch.refinenet2.resConfUnit1.conv2.weight':
        'decode_head.fusion_2.unit1.conv2.weight',
        'scratch.refinenet3.resConfUnit2.conv1.bias':
        'decode_head.fusion_3.unit2.conv1.bias',
        'scratch.refinenet1.out_conv.bias': 'decode_head.fusion_1.out.bias',
        'scratch.output_conv.2.weight': 'decode_head.output.2.weight',
        'uncertaity_head.2.weight': 'uncertainty_head.output.2.weight',
    }
    for old, new in pairs.items():
        assert torch.equal(found[new], state[old])


def test_spikes(tool, keys):
    """A spike checkpoint keeps its stem; an RGB stem can be spread."""
    found = tool.convert(synthetic(keys, 'bicross', channels=128))
    assert found[STEM].shape == (64, 128, 7, 7)
    rgb = synthetic(keys, 'timm')
    rgb[IMAGENET_STEM] = torch.rand(64, 3, 7, 7)
    found = tool.convert(rgb, in_channels=128)[STEM]
    assert found.shape == (64, 128, 7, 7)
    torch.testing.assert_close(found[:, 77], rgb[IMAGENET_STEM].mean(1))
    with pytest.raises(UserError, match='has 128 channels'):
        tool.convert(synthetic(keys, 'bicross', channels=128), in_channels=3)


def test_other_files_are_refused(tool, keys):
    state = synthetic(keys, 'dpt')
    with pytest.raises(UserError, match='scratch.auxlayer.0.weight'):
        tool.convert({**state, 'scratch.auxlayer.0.weight': torch.zeros(1)})
    with pytest.raises(UserError, match='another backbone'):
        tool.convert({'pretrained.model.cls_token': torch.zeros(1)})
    with pytest.raises(UserError, match='The first keys are'):
        tool.convert({'backbone.layer1.weight': torch.zeros(1)})


def test_a_converted_file_runs(tool, tmp_path):
    """A tiny network through the authors' names and back: equal outputs."""
    model = depth_model(in_channels=8).eval()
    official = {official_name(k): v for k, v in model.state_dict().items()}
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    torch.save(dict(model_state_dict=official), source)
    tool.convert_file(str(source), str(target))
    other = depth_model(seed=1, in_channels=8).eval()
    load_checkpoint(other, str(target), strict=True)
    x = torch.randn(1, 8, 64, 64).sign()
    with torch.no_grad():
        for a, b in zip(
                model.depth_and_uncertainty(x),
                other.depth_and_uncertainty(x)):
            assert torch.equal(a, b)


def official_name(key):
    part, _, rest = key.partition('.')
    words = rest.split('.')
    if part == 'backbone':
        return f'pretrained.model.{rest[len("vit."):]}'
    if part == 'uncertainty_head':
        return f'uncertaity_head.{rest[len("output."):]}'
    if words[0] == 'reassemble':
        place = dict(project='0.project.0', width='3', resample='4')[words[3]]
        return (f'pretrained.act_postprocess{int(words[2]) + 1}.'
                f'{place}.{words[4]}')
    if words[0].startswith('reduce_'):
        return f'scratch.layer{words[0][-1]}_rn.weight'
    if words[0].startswith('fusion_'):
        rest = '.'.join(words[1:]).replace('unit', 'resConfUnit').replace(
            'out.', 'out_conv.')
        return f'scratch.refinenet{words[0][-1]}.{rest}'
    return f'scratch.output_conv.{".".join(words[1:])}'
