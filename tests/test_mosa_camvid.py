# Copyright (c) mmext contributors. All rights reserved.
"""Fine-tuning segmentors with the shipped CamVid configs, made tiny."""
import json

import pytest
import torch

from .data_fixtures import CAMVID_RUN, write_camvid
from .tool_fixtures import ROOT, tool
from .toy_runs import quick_runner

pytest.importorskip('mmseg')

from mmext.apis.adapters import build_host, build_tuned  # noqa: E402
from mmext.models.adapters import model_from_adapter  # noqa: E402
from mmext.models.adapters import read_adapter  # noqa: E402
from mmext.utils.config_io import load_config  # noqa: E402

CONFIG = """
_base_ = [{base!r}]
model = dict(
    module=dict(
        data_preprocessor=dict(size=(64, 96)),
        backbone=dict(
            init_cfg=None, embed_dims=8, num_layers=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2], mlp_ratio=2),
        decode_head=dict(in_channels=[8, 8, 16, 16], channels=16)),
    adapter=dict({width}=4))
""" + CAMVID_RUN + """param_scheduler = None
custom_hooks = [dict(type='mmext.MoSAHook', interval=1)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
visualizer = dict(name='{base}')  # runs of one process share it by name
"""


def entries(folder, pattern):
    """What the run below a folder logged."""
    path, = folder.glob(pattern)
    return [json.loads(line) for line in path.read_text().splitlines()]


def scores(model):
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(x)


@pytest.mark.parametrize('name, width', [
    pytest.param('mosa', 'bottleneck', marks=pytest.mark.stack_subset),
    ('mosl', 'rank')])
def test_fine_tuning(name, width, tmp_path, monkeypatch):
    """Two iterations, validation, test; the adapter's file and the merged
    checkpoint compute what the trained model does."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'config.py'
    base = ROOT / 'configs' / 'mosa' / f'segformer-mit-b0_{name}_camvid.py'
    path.write_text(CONFIG.format(
        base=str(base), root=write_camvid('data', count=5), width=width))
    config, last = str(path), 'work/iter_2.pth'
    torch.manual_seed(0)
    with quick_runner():
        tool('train').main([config, '--work-dir', 'work'])
        tool('test').main([config, last, '--work-dir', 'test'])
    log = entries(tmp_path / 'work', '*/vis_data/scalars.json')
    steps = [entry for entry in log if 'loss' in entry]
    assert len(steps) == 2
    assert all({'loss_kl', 'decode.loss_ce', 'mosa/update_norm_3'} <= set(step)
               for step in steps)
    assert sum('mIoU' in entry for entry in log) == 1
    assert any({'r1/day/mIoU', 'r1/dusk/mIoU'} <= set(entry)
               for entry in entries(tmp_path / 'test', '*/*.json'))

    cfg = load_config(config)
    trained = build_tuned(cfg, last)
    expected = scores(trained)
    state = trained.state_dict()
    zero_at_start = [v for k, v in state.items()
                     if k.endswith(('up.weight', 'B.weight'))]
    assert len(zero_at_start) == (4 if name == 'mosa' else 16)
    assert sum(bool(value.any()) for value in zero_at_start) >= 4
    torch.save(dict(state_dict={k: v for k, v in state.items()
                                if '.mosa.' not in k}), 'host.pth')
    tool('model_converters/export_adapter').main(
        [config, last, 'adapter', '--merged'])
    described, tensors = read_adapter('adapter')
    assert described['flavour'] == 'merged'
    assert not [k for k in tensors
                if '.mosa.' not in k and not k.startswith('decode_head.')]
    host = build_host(cfg, 'host.pth')
    torch.testing.assert_close(
        scores(model_from_adapter(host, 'adapter')), expected)
    tool('model_converters/merge_adapter').main([config, last, 'merged.pth'])
    whole = torch.load('merged.pth', weights_only=True)['state_dict']
    if name == 'mosl':
        model = build_host(cfg)
    else:
        cfg.model.num_modules = 1
        model = build_tuned(cfg)
    model.load_state_dict(whole)
    torch.testing.assert_close(scores(model), expected)
