# Copyright (c) mmext contributors. All rights reserved.
"""Pairs of source and target; StreetWorld with spikes."""
import hashlib
import json

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import DataLoader

pytest.importorskip('mmseg')

from mmext.datasets.depth import (SourceTargetDataset, SourceTargetSampler,
                                  StreetWorldDepthDataset, source_target)
from mmext.spike import grey, playback
from mmext.utils.user_error import ConfigError

DRAW = dict(type='mmext.RenderStreetWorldSpikes')
SMALL = dict(size=(32, 48), per_town=8)


class Numbers(list):
    """A data set of dicts."""

    def __getitem__(self, i):
        return dict(inputs=list.__getitem__(self, i), data_samples=i)


def pairs(source=4, target=7, **options):
    return SourceTargetDataset(
        Numbers(range(source)), Numbers(range(100, 100 + target)), **options)


def test_pairs():
    data = pairs()
    assert len(data) == 4 and len(pairs(length='longer')) == 7
    assert data[1, 6] == dict(
        inputs=dict(source=1, target=106),
        data_samples=dict(source=1, target=6))
    assert data[5]['inputs'] == dict(source=1, target=105)
    for wrong in (dict(length='both'), dict(source=0)):
        with pytest.raises(ConfigError):
            pairs(**wrong)


def test_pairs_of_every_epoch_differ_and_come_again(monkeypatch):
    data = pairs()
    sampler = SourceTargetSampler(data, seed=3)
    epochs = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(i for i, _ in epochs[-1]) == [0, 1, 2, 3]
        assert len({j for _, j in epochs[-1]}) == 4 == len(sampler)
    assert len(set(map(str, epochs))) == 6
    assert {j for epoch in epochs for _, j in epoch} == set(range(7))
    again = SourceTargetSampler(data, seed=3)
    again.set_epoch(4)
    assert list(again) == epochs[4]
    longer = SourceTargetSampler(pairs(length='longer'), seed=0)
    found = list(longer)
    assert sorted(j for _, j in found) == list(range(7))
    assert sorted({i for i, _ in found}) == [0, 1, 2, 3]
    batch = next(
        iter(DataLoader(data, 3, sampler=sampler, collate_fn=pseudo_collate)))
    assert len(batch['inputs']['target']) == 3
    # Two processes share an epoch.
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(
            source_target, 'get_dist_info', lambda rank=rank: (rank, 2))
        one = SourceTargetSampler(pairs(5, 9), seed=0)
        assert len(one) == 3
        shares.append(list(one))
    assert len({pair for share in shares for pair in share}) == 5
    with pytest.raises(ConfigError, match='DefaultSampler'):
        SourceTargetSampler([1, 2])


def test_streetworld_with_spikes(tmp_path):
    init_default_scope('mmseg')
    config = dict(
        type='mmdepth.StreetWorldDepthDataset',
        frames=2,
        pipeline=[
            DRAW,
            dict(type='mmext.PackDepthInputs', keys=('rgb', 'spike'))
        ],
        **SMALL)
    data = DATASETS.build(config)
    first, second = data[0], data[1]
    spikes = first['inputs']['spike']
    assert spikes.shape == (128, 32, 48) and spikes.max() == 1
    depth = first['data_samples'].gt_depth_map.data[0]
    assert (depth == 0).any() and depth.max() > 20  # sky and street
    assert not torch.equal(spikes, second['inputs']['spike'])
    light = first['inputs']['rgb'].numpy().astype(float).mean(0) / 255
    rate = playback(spikes.numpy(), 64, 63) / 0.5
    assert np.abs(rate - light).mean() < 0.05
    # A cache gives the same, also when a file of it is damaged.
    kept = DATASETS.build(dict(config, cache_dir=str(tmp_path / 'kept')))
    for _ in range(2):
        assert torch.equal(kept[0]['inputs']['spike'], spikes)
        assert torch.equal(kept[0]['data_samples'].gt_depth_map.data[0], depth)
        files = list((tmp_path / 'kept').iterdir())
        assert len(files) == 1
        files[0].write_bytes(files[0].read_bytes()[:100])


def write_black_sample(folder, data, number):
    """What a cache of a format holds for the first sample: nothing."""
    info = data.get_data_info(0)
    text = json.dumps([number, info['streetworld'], info['spike_camera']],
                      sort_keys=True,
                      default=str)
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    np.savez(
        folder / f'{name}.npz',
        bits=np.zeros(128 * 32 * 48 // 8, np.uint8),
        shape=(128, 32, 48),
        img=np.zeros((32, 48, 3), np.uint8),
        gt_depth_map=np.zeros((32, 48), np.float32))


@pytest.mark.parametrize('camera,anew', [
    (dict(start='zero'), True),
    (dict(start=0.5), True),
    (dict(), False),
    (dict(preset='scsim', start='zero'), False),
])
def test_streetworld_of_cameras_that_fired_late(tmp_path, camera, anew):
    """Samples of before are drawn anew where spikes differ, and only there."""
    init_default_scope('mmseg')
    data = StreetWorldDepthDataset(
        frames=1,
        pipeline=[DRAW],
        camera=camera,
        spike_frames=1,
        cache_dir=str(tmp_path),
        **SMALL)
    write_black_sample(tmp_path, data, 1)
    assert data[0]['spike'].any() == anew


@pytest.mark.parametrize('preset', ['spcs', 'spikingsim'])
def test_streetworld_with_gamma(tmp_path, preset):
    """Cameras with their own full scale; samples of before are drawn anew."""
    init_default_scope('mmseg')
    data = StreetWorldDepthDataset(
        frames=1,
        pipeline=[DRAW],
        camera=dict(preset=preset),
        gamma=2.2,
        spike_frames=1,
        cache_dir=str(tmp_path),
        **SMALL)
    write_black_sample(tmp_path, data, 1)
    if preset == 'spcs':  # also fired late, which outweighs the gamma
        write_black_sample(tmp_path, data, 2)
    found = data[0]
    light = grey(found['img'], 2.2)
    scale = dict(spcs=255 / 256, spikingsim=0.45 / light.max())[preset]
    rate = found['spike'].mean(0)
    assert np.abs(rate - scale * light).max() <= 1.01 / 128
    assert rate.max() > 0.2


def test_streetworld_options():
    """Gain, noise, weather, camera and town change what they should."""

    def item(keys=('img', 'spike', 'gt_depth_map'), **options):
        data = StreetWorldDepthDataset(
            frames=1, pipeline=[dict(DRAW, keys=keys)], **SMALL, **options)
        return data[0]

    init_default_scope('mmseg')
    plain = item()
    bright = item(camera=dict(gain=1.))
    assert bright['spike'].sum() > 1.9 * plain['spike'].sum()
    np.testing.assert_array_equal(bright['gt_depth_map'],
                                  plain['gt_depth_map'])
    noisy = item(camera=dict(preset='scsim', gain=0.5), spike_frames=1)
    assert 0.02 < (noisy['spike'] != plain['spike']).mean() < 0.6
    near = item(focal=30., drive=dict(height=2.))
    assert (near['gt_depth_map'] != plain['gt_depth_map']).mean() > 0.5
    assert (item(seed=5)['img'] != plain['img']).mean() > 0.5
    assert 'spike' not in item(keys='img')
    for wrong in (dict(domain='hail'), dict(spike_frames=2),
                  dict(camera=dict(speed=1)), dict(seconds=0),
                  dict(focal=-1.)):
        with pytest.raises(ConfigError):
            item(**wrong)
    with pytest.raises(ConfigError, match='StreetWorldDepthDataset'):
        from mmext.datasets.depth import RenderStreetWorldSpikes
        RenderStreetWorldSpikes()(dict(img_path='a.png'))
