# Copyright (c) mmext contributors. All rights reserved.
"""The shipped MoSA configs, made tiny, through tools/train.py."""
import importlib.util
import json

import pytest

from mmext.models.adapters import read_adapter
from mmext.utils.user_error import UserError
from ..classification_fixtures import (own_checksums, write_aircraft,
                                       write_cifar10, write_cifar100,
                                       write_elpv, write_fashion_mnist,
                                       write_fgvc, write_food101, write_vtab)
from ..tool_fixtures import ROOT

CONFIG = """
_base_ = [{base!r}]
model = dict(
    module=dict(
        backbone=dict(arch=dict(_delete_=True, **{arch}), init_cfg=None),
        head=dict(in_channels={width})),
    adapter=dict(bottleneck=4))
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    persistent_workers=False,
    dataset={train})
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset={val})
test_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset={test})
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = None
{hooks}
default_hooks = dict(logger=dict(interval=1))
"""
_VIT = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
_SWIN = dict(embed_dims=4, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2])
_HOOK = "custom_hooks = [dict(type='mmext.MoSAHook', interval=1)]"
_SUBSET = 'dict(num_samples={n}, skip=0, dataset=dict(data_root={root!r}{x}))'
_JOINT = 'dict(datasets=dict({}))'.format(', '.join(
    f'{t}=dict(data_root={{root!r}}, indices=1)'
    for t in ('cars', 'cub', 'dogs', 'flowers', 'nabirds')))
_PLAIN = 'dict(data_root={root!r})'


def _subset(n, x=''):
    return _SUBSET.replace('{n}', str(n)).replace('{x}', x)


# config -> writer, batch size of two iterations, train, val, test
SETS = dict(
    vtab=('vit-base-p16_mosa_vtab-kitti-distance',
          lambda root: write_vtab(root, tasks=['kitti']), 2, _PLAIN, _PLAIN,
          _PLAIN),
    fgvc=('vit-base-p16_mosa_flowers',
          lambda root: write_fgvc(root, ['flowers'], 8), 2,
          'dict(data_root={root!r}, indices=4)', _PLAIN, _PLAIN),
    few=('vit-base-p16_mosa_cub-10pct',
         lambda root: write_fgvc(root, ['cub'], 8), 2, _subset(
             4, ', indices=8').replace('skip',
                                       'fraction=None, skip'), _PLAIN, _PLAIN),
    joint=('vit-base-p16_mosa_fgvc-joint',
           lambda root: write_fgvc(root, images=4), 3, _JOINT, _JOINT, _JOINT),
    swin=('swin-base-p4-w7_mosa_cars',
          lambda root: write_fgvc(root, ['cars'], 8), 2,
          'dict(data_root={root!r}, indices=4)', _PLAIN, _PLAIN),
    task=('vit-base-p16_mosa-per-task_cub',
          lambda root: write_fgvc(root, ['cub'], 8), 2,
          'dict(data_root={root!r}, indices=4)', _PLAIN, _PLAIN),
    both=('vit-small-p14_mosa-both_cifar10-112px', write_cifar10, 5,
          _subset(10, ', check=False'), _subset(10, ', check=False'),
          _subset(10, ', check=False')),
    elpv=('vit-small-p14_mosa_elpv2-112px', write_elpv, 1,
          'dict(fraction=0.0025, dataset=dict(data_root={root!r}))', _PLAIN,
          _PLAIN),
    cifar10=('vit-small-p14_mosa_cifar10-112px', write_cifar10, 5,
             _subset(10, ', check=False'), _subset(10, ', check=False'),
             _subset(10, ', check=False')),
    cifar100=('vit-base-p16_mosa_cifar100', write_cifar100, 2,
              'dict(data_root={root!r}, indices=4)', _PLAIN, _PLAIN),
    aircraft=('vit-base-p16_mosa_aircraft', write_aircraft, 2, _PLAIN, _PLAIN,
              _PLAIN),
    food101=('vit-base-p16_mosa_food101', write_food101, 2, _PLAIN, _PLAIN,
             _PLAIN),
    fashion=('vit-small-p14_mosa_fashion-mnist-112px', write_fashion_mnist, 5,
             _subset(10), _subset(10), _subset(10)))


def tool(name):
    """The ``main`` of ``tools/NAME.py``, to be run in this process."""
    path = ROOT / 'tools' / f'{name}.py'
    spec = importlib.util.spec_from_file_location(f'{name}_tool', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def write_config(folder, name, root):
    base, _, batch, *parts = SETS[name]
    parts = [part.replace('{root!r}', repr(str(root))) for part in parts]
    path = folder / f'{name}.py'
    swin = base.startswith('swin')
    path.write_text(
        CONFIG.format(
            arch=_SWIN if swin else _VIT,
            width=32 if swin else 8,
            hooks='' if 'per-task' in base else _HOOK,
            base=str(ROOT / 'configs' / 'mosa' / f'{base}.py'),
            batch=batch,
            train=parts[0],
            val=parts[1],
            test=parts[2]))
    return str(path)


def scalars(folder, pattern='*/vis_data/scalars.json'):
    path, = folder.glob(pattern)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize('name', SETS)
def test_two_iterations(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # a short path: the runner formats its config, which long lines slow down
    root = SETS[name][1]('data')
    if name == 'cifar100':
        own_checksums(root, monkeypatch)
    config = write_config(tmp_path, name, root)
    scored = name in ('vtab', 'fgvc', 'elpv', 'cifar10')
    tool('train')([config, '--work-dir', 'work'] + ['--no-validate'] *
                  (not scored))
    lines = scalars(tmp_path / 'work')
    losses = [line for line in lines if 'loss' in line]
    assert len(losses) == 2
    assert all('loss_kl' in line for line in losses)
    assert any('accuracy/top1' in line for line in lines) == scored
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
    assert all(('loss_deep' in line) == (name == 'swin') for line in losses)
    if name == 'task':  # the config's own hook writes adapter and head
        cfg, tensors = read_adapter(tmp_path / 'work' / 'cub.safetensors')
        assert cfg['flavour'] == 'merged'
        assert tensors['head.layers.head.weight'].shape == (200, 8)
        assert not [k for k in tensors
                    if '.mosa.' not in k and not k.startswith('head.')]
    if name == 'vtab':  # the merged adapters are what is tested
        tool('test')([config, 'work/epoch_1.pth', '--work-dir', 'test'])
        assert any('accuracy/top1' in line
                   for line in scalars(tmp_path / 'test', '*/*.json'))


@pytest.mark.parametrize('name', SETS)
def test_missing_folder_stops_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        tool('train')(
            [write_config(tmp_path, name, 'nowhere'), '--work-dir', 'work'])
    message = str(caught.value)
    assert str(tmp_path / 'nowhere') in message
    for part in ('Expected layout', 'How to get it', 'data_root'):
        assert part in message
    assert 'streetworld' not in message
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('name', [
    'adapter', 'sparse-adapter', 'lora', 'mosl', 'bitfit', 'ssf', 'linear',
    'full'
])
def test_baselines_train(name, tmp_path, monkeypatch):
    """The shipped baselines on CUB; only MoSL has a second pass."""
    monkeypatch.chdir(tmp_path)
    write_fgvc('data', ['cub'], 4)
    few = 'dict(data_root={root!r}, indices=4)'
    monkeypatch.setitem(SETS, name,
                        (f'vit-base-p16_{name}_cub', None, 2, few, few, few))
    path = write_config(tmp_path, name, 'data')
    if 'adapter' not in name:  # no bottleneck to make tiny
        text = tmp_path.joinpath(f'{name}.py').read_text()
        tmp_path.joinpath(f'{name}.py').write_text(
            text.replace('adapter=dict(bottleneck=4)', ''))
    tool('train')([path, '--work-dir', 'work', '--no-validate'])
    losses = [line for line in scalars(tmp_path / 'work') if 'loss' in line]
    assert len(losses) == 2
    assert all(('loss_kl' in line) == (name == 'mosl') for line in losses)


def test_testing_needs_the_whole_checkpoint_and_nothing_else(
        tmp_path, monkeypatch):
    """The pretrained backbone may be gone; a partial checkpoint, with which
    a part of the model would stay random, is refused."""
    import torch

    from mmext.apis.adapters import build_tuned
    from mmext.utils.config_io import load_config
    monkeypatch.chdir(tmp_path)
    write_vtab('data', tasks=['kitti'])
    config = write_config(tmp_path, 'vtab', 'data')
    with open(config, 'a') as file:
        file.write("model['module']['backbone']['init_cfg'] = dict(\n"
                   "    _delete_=True, type='Pretrained', "
                   "checkpoint='gone.pth')\n")
    state = build_tuned(load_config(config)).state_dict()
    torch.save(dict(state_dict=state), 'whole.pth')
    tool('test')([config, 'whole.pth', '--work-dir', 'work'])
    assert any('accuracy/top1' in line
               for line in scalars(tmp_path / 'work', '*/*.json'))
    for part in ('head', 'backbone.ln1', '.mosa.'):
        torch.save(
            dict(state_dict={k: v for k, v in state.items()
                             if part not in k}), 'part.pth')
        with pytest.raises(UserError, match='missing'):
            tool('test')([config, 'part.pth', '--work-dir', 'other'])
