# Copyright (c) mmext contributors. All rights reserved.
"""The shipped weather configs, made tiny, through the tools."""
import json

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..data_fixtures import (write_acdc, write_foggy_cityscapes,
                             write_rainy_cityscapes)
from ..tool_fixtures import ROOT, run_tool

# Two frames. View 4 of 6 is the reference, as in the shipped configs.
CONFIG = """
_base_ = [{base!r}]
views = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[[
            dict(type='Resize', scale=(48, 32), keep_ratio=False),
            dict(type='Resize', scale=(72, 48), keep_ratio=False),
            dict(type='Resize', scale=(96, 64), keep_ratio=False)
        ],
                    [
                        dict(type='RandomFlip', prob=0.),
                        dict(type='RandomFlip', prob=1.)
                    ], [dict(type='LoadAnnotations')],
                    [dict(type='PackSegInputs')]])
]
plain = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=False),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
domains = {domains!r}
train_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(rounds=1, domains=dict((n, dict(
        data_root={root!r}, pipeline=views, **k)) for n, k in domains)))
test_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(domains=dict((n, dict(
        data_root={root!r}, pipeline=plain, **k)) for n, k in domains)))
model = dict(
    backbone=dict(embed_dims=8, num_heads=[1, 1, 2, 2],
                  num_layers=[1, 1, 1, 1]),
    decode_head=dict(in_channels=[8, 8, 16, 16], channels=8))
load_from = {source!r}
"""
SETS = dict(
    cityscapes_acdc=(lambda root: write_acdc(root, count=1),
                     [('fog', dict()), ('night', dict()), ('rain', dict()),
                      ('snow', dict())]),
    cityscapes_foggy=(lambda root: write_foggy_cityscapes(root, count=2),
                      [('fog', dict(beta=0.02))]),
    cityscapes_rainy=(lambda root: write_rainy_cityscapes(root, count=2),
                      [('rain', dict())]))


@pytest.mark.parametrize('name', SETS)
def test_the_shipped_config_adapts_to_tiny_frames(name, tmp_path):
    writer, domains = SETS[name]
    source, config = tmp_path / 'source.pth', tmp_path / 'tiny.py'
    config.write_text(
        CONFIG.format(
            base=str(ROOT / 'configs' / 'svdp' / f'{name}.py'),
            root=writer(tmp_path / 'data'),
            domains=domains,
            source=str(source)))
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), source)

    run_tool('tools/train.py', config, '--work-dir', 'work', cwd=tmp_path)
    written = json.loads(
        (tmp_path / 'work' / 'adaptation_report.json').read_text())
    visited = written['report']['rounds']['r1']
    assert list(visited) == [domain for domain, _ in domains]
    frames = 1 if len(domains) == 4 else 2
    assert all(result['frames'] == frames for result in visited.values())
    if name == 'cityscapes_foggy':
        last = tmp_path / 'work' / f'iter_{frames}.pth'
        output = run_tool('tools/test.py', config, last, cwd=tmp_path)
        assert 'r1/fog/mIoU' in output
