# Copyright (c) mmext contributors. All rights reserved.
"""The shipped distance-net configs, made tiny, through tools/train.py."""
import pytest

from mmext.utils.user_error import UserError
from ..classification_fixtures import (own_checksums, write_cifar10,
                                       write_cifar100, write_fashion_mnist)
from ..tool_fixtures import ROOT
from .test_classification_train import scalars, tool

CONFIG = """
_base_ = [{base!r}]
model = dict({model})
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root={root!r}, indices=16{extra}))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(data_root={root!r}, indices=8{extra}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_begin=1, val_interval=1)
param_scheduler = None
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=1),
    p_norm=dict(epochs={epochs}))
"""
MLP = 'backbone=dict(depth=2, width=0.015625), head=dict(in_channels=16)'
LENET = 'backbone=dict(hidden=16), head=dict(in_channels=16, hidden=8)'


R, V2 = (0, 1, 1, 1, 2), (0, 0, 0, 1, 2)
# config -> writer, model, further options of the data sets, epochs
SETS = {
    'lipnet_mnist': (write_fashion_mnist, MLP, '', R),
    'liplenet++_fashion-mnist': (write_fashion_mnist, LENET, '', R),
    'liplenet++_cifar10': (write_cifar10, LENET, ', check=False', R),
    'liplenet++_cifar100': (write_cifar100, LENET, '', R),
    'lipnet-mixture_mnist-0.1': (write_fashion_mnist, MLP, '', V2),
    'sortnet_mnist-0.3': (write_fashion_mnist, MLP, '', V2),
}


def write_config(folder, name, root):
    _, model, extra, epochs = SETS[name]
    # Runs of one second and one name would share a visualizer.
    path = folder / f'{name}.py'
    path.write_text(
        CONFIG.format(
            base=str(ROOT / 'configs' / 'lipschitz' / f'{name}.py'),
            model=model,
            root=str(root),
            extra=extra,
            epochs=epochs))
    return str(path)


@pytest.mark.parametrize('name', SETS)
def test_two_iterations(name, tmp_path, monkeypatch):
    """Train to p = inf, certify the average and the live weights, test."""
    monkeypatch.chdir(tmp_path)
    root = SETS[name][0](tmp_path / 'data')
    if 'cifar100' in name:
        own_checksums(root, monkeypatch)
    config = write_config(tmp_path, name, root)
    tool('train')([config, '--work-dir', 'work'])
    lines = scalars(tmp_path / 'work')
    losses = [line for line in lines if 'loss' in line]
    assert len(losses) == 4
    assert losses[0]['p'] == 8. and losses[-1]['p'] == float('inf')
    last = [line for line in lines if 'cert/clean' in line][-1]
    average = 'mixture' not in name and 'sortnet' not in name
    assert ('cert/clean_live' in last) == average
    certified = [k for k in last if k.startswith('cert/certified@')]
    assert len(certified) == 1 + average
    if name in ('lipnet_mnist', 'liplenet++_cifar10'):
        # property 24: the checkpoint scores what validation logged
        tool('test')([
            config, 'work/epoch_2.pth', '--work-dir', 'test', '--cfg-options',
            'experiment_name=test'
        ])
        fresh = scalars(tmp_path / 'test', '*/*.json')[-1]
        for key in ('cert/clean', certified[0], 'cert/mean_radius'):
            assert fresh[key] == last[key]


@pytest.mark.parametrize('name', list(SETS)[:4])
def test_missing_folder_stops_before_any_work(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        tool('train')(
            [write_config(tmp_path, name, 'nowhere'), '--work-dir', 'work'])
    message = str(caught.value)
    assert str(tmp_path / 'nowhere') in message
    for part in ('Expected layout', 'How to get it', 'data_root'):
        assert part in message
    assert 'dataset_converters' in message or 'cifar100' in name
    assert not (tmp_path / 'work').exists()
