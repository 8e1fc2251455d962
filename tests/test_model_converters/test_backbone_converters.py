# Copyright (c) mmext contributors. All rights reserved.
"""Converters of the pretrained backbones that the CamVid configs use."""
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'model_converters'


def load(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original_names(tool, state_dict):
    """timm's names back to those of the efficientnet-lite package."""
    place = [(s, b) for s, n in enumerate(tool.LITE0_STAGES) for b in range(n)]
    top = {v: k for k, v in tool._TOP.items()}
    out = {}
    for key, value in state_dict.items():
        parts = key.split('.')
        if parts[0] == 'blocks':
            stage, block = int(parts[1]), int(parts[2])
            names = tool._EXPANDED if stage else tool._PLAIN
            back = {v: k for k, v in names.items()}
            index = place.index((stage, block))
            out[f'_blocks.{index}.{back[parts[3]]}.{parts[4]}'] = value
        else:
            out[f'{top[parts[0]]}.{parts[1]}'] = value
    return out


def test_efficientnet_lite_gets_the_names_of_timm(tmp_path, monkeypatch):
    timm = pytest.importorskip('timm')
    tool = load('efficientnet_lite_to_timm')
    expected = timm.create_model('tf_efficientnet_lite0').state_dict()
    original = original_names(tool, expected)
    assert '_blocks.15._project_conv.weight' in original

    converted = tool.convert(original)
    assert list(converted) == list(expected)
    assert all(torch.equal(converted[k], expected[k]) for k in expected)

    # the file fits the backbone of the shipped configs, nothing left over
    source, target = tmp_path / 'source.pth', tmp_path / 'target.pth'
    torch.save(original, source)
    monkeypatch.setattr('sys.argv', ['convert', str(source), str(target)])
    tool.main()
    from mmseg.models.backbones import TIMMBackbone
    backbone = TIMMBackbone(
        'tf_efficientnet_lite0', features_only=True, pretrained=False)
    backbone.load_state_dict(
        torch.load(target, weights_only=True), strict=True)

    with pytest.raises(ValueError, match='Unknown names'):
        tool.convert({**original, '_other.weight': torch.zeros(1)})
    with pytest.raises(ValueError, match='EfficientNet-Lite0'):
        tool.convert({'_conv_stem.weight': torch.zeros(1)})


def test_vit_arrays_get_the_names_of_mmpretrain():
    models = pytest.importorskip('mmpretrain.models')
    tool = load('vit_onnx_to_mmpretrain')
    vit = models.VisionTransformer(
        arch=dict(
            embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        img_size=28,
        patch_size=14,
        layer_scale_init_value=1e-5)
    expected = {k: torch.randn_like(v) for k, v in vit.state_dict().items()}
    arrays = {'position_embeddings': expected['pos_embed'].numpy()}
    top = {v: k for k, v in tool._TOP.items()}
    block = {v: k for k, v in tool._BLOCK.items()}
    scale = {'attn.gamma1': 'layer_scale1', 'ffn.gamma2': 'layer_scale2'}
    for key, value in expected.items():
        value = value.numpy()
        if key in top:
            arrays[top[key]] = value
        elif key.startswith('layers.'):
            number, rest = key[len('layers.'):].split('.', 1)
            stem, kind = rest.rsplit('.', 1)
            name = f'encoder.layer.{number}.'
            if stem == 'attn.qkv':
                for part, a in zip(('query', 'key', 'value'),
                                   np.split(value, 3)):
                    arrays[f'{name}attention.attention.{part}.{kind}'] = a
            elif stem in scale:
                arrays[f'{name}{scale[stem]}.lambda1'] = value
            else:
                arrays[f'{name}{block[stem]}.{kind}'] = value
    converted = tool.convert(arrays)
    assert set(converted) == set(expected)
    assert all(torch.equal(converted[k], expected[k]) for k in expected)
    with pytest.raises(ValueError, match='Unknown name'):
        tool.convert({**arrays, 'pooler.weight': np.zeros(1)})
