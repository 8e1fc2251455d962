# Copyright (c) mmext contributors. All rights reserved.
"""Depth data sets: layouts, two iterations of training, bad files."""
import os
import os.path as osp
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

pytest.importorskip('mmseg')

from mmext.datasets.data_help import UnreadableSampleError
from mmext.spike import Light, SpikeCamera, write_depth_png, write_spikes
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError
from ..depth_fixtures import (COUNT, SIZE, TICKS, WRITERS, make_frame,
                              write_driving_stereo, write_kitti, write_respike,
                              write_vkitti2, write_weather)
from ..tiny_depth import depth_config
from ..tool_fixtures import tool

CROP = (56, 96)
LOAD = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadSpikeFromFile', length=TICKS)
]
PACK = dict(type='mmext.PackDepthInputs', keys='spike')
TRAIN = [
    *LOAD,
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.KBCrop', size=CROP), PACK
]
TEST = [
    *LOAD,
    dict(type='mmext.KBCrop', size=CROP),
    dict(type='mmext.LoadDepth'), PACK
]


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def build(config, **options):
    return DATASETS.build(dict(config, **options))


def loader(config, pipeline, **options):
    return dict(
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(config, pipeline=pipeline, **options))


def run(train, val, work_dir, iters=2):
    """A Runner in this process, with a network of half a million numbers."""
    model = depth_config(losses=True, in_channels=TICKS)
    model.data_preprocessor = dict(
        type='mmext.SpikeDataPreprocessor', size=(32, 64))
    model.backbone.img_size = (32, 64)
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=train,
        val_dataloader=val,
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=iters),
        val_cfg=dict(),
        val_evaluator=dict(type='mmext.DepthMetric'),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=1e-4)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=iters)),
        default_scope='mmseg',
        experiment_name=Path(work_dir).name,
        log_level='WARNING')
    runner.train()
    return runner


@pytest.mark.parametrize('name', WRITERS)
def test_two_iterations_of_training(name, tmp_path):
    config = WRITERS[name](tmp_path / 'data')
    data = build(config, pipeline=TEST, test_mode=True)
    assert len(data) == (4 if name == 'weather' else COUNT)
    sample = data[0]
    image, depth, spikes = make_frame(0)
    np.testing.assert_array_equal(sample['inputs'], spikes[:, -CROP[0]:,
                                                           4:4 + CROP[1]])
    truth = sample['data_samples'].gt_depth_map.data[0]
    assert truth.shape == SIZE and (truth == 0).any()
    assert np.abs(truth - depth).max() < 0.01
    assert sample['data_samples'].crop_box == (8, 4, *CROP)

    runner = run(
        loader(config, TRAIN), loader(config, TEST, test_mode=True),
        tmp_path / f'work_{name}')
    found = runner.message_hub.log_scalars
    assert np.isfinite(found['train/loss'].current())
    assert found['val/abs_rel'].current() > 0
    assert found['val/num_images'].current() == len(data)


@pytest.mark.parametrize('name', WRITERS)
def test_a_missing_folder_is_explained(name, tmp_path):
    config = WRITERS[name](tmp_path / 'data')
    with pytest.raises(MissingFileError) as error:
        build(config, data_root=str(tmp_path / 'nowhere'))
    message = str(error.value)
    assert str(tmp_path / 'nowhere') in message
    for part in ('Expected layout', 'How to get it', 'StreetWorldDepth'):
        assert part in message
    # One of the files.
    spikes = build(config, modalities=('rgb', 'spike')).get_data_info(1)
    os.remove(spikes['spike_path'])
    if build(config, modalities=('rgb', )).drop_by_default:
        assert len(build(config)) == COUNT - 1
    else:
        with pytest.raises(MissingFileError, match='lacks files of 1 of'):
            build(config)
        assert build(config, drop_incomplete=True)
    assert len(build(config, modalities=('rgb', 'depth'))) >= COUNT


def test_splits(tmp_path):
    config = write_weather(tmp_path)
    names = [
        build(config, split=split).get_data_info(0)['img_path'][-7:]
        for split in ('train', 'test')
    ]
    assert names == ['000.jpg', '004.jpg']
    with pytest.raises(ConfigError, match="got 'dev'"):
        build(config, split='dev')
    with pytest.raises(ConfigError, match="got 'windy'"):
        build(config, weather='windy')
    with pytest.raises(ConfigError, match='sound'):
        build(config, modalities=('sound', ))
    for scale in (0, -1, float('nan'), '256'):
        with pytest.raises(ConfigError, match='depth_scale'):
            build(config, depth_scale=scale)
    with pytest.raises(ConfigError, match="Did you mean 'bitorder'"):
        build(config, spike_options=dict(bit_order='big'))
    with pytest.raises(ConfigError, match="flipud in .*the text 'no'"):
        build(config, spike_options=dict(flipud='no'))


def test_parts_of_the_published_splits():
    """Section c.2 of the specification, and row 16 of section b."""
    from mmext.datasets.depth import (DrivingStereoDataset,
                                      PartialKITTIDataset, VKITTI2Dataset,
                                      VKITTIDataset)
    for data, train, test in (
        (VKITTI2Dataset, [f'Scene{n}'
                          for n in ('01', '02', '06', '20')], ['Scene18']),
        (VKITTIDataset, ['0001', '0002', '0006', '0020'], ['0018']),
        (PartialKITTIDataset, [
            '2011_09_26_drive_0019_sync', '2011_09_26_drive_0023_sync',
            '2011_09_26_drive_0035_sync', '2011_09_26_drive_0046_sync',
            '2011_09_26_drive_0064_sync', '2011_09_30_drive_0020_sync'
        ], ['2011_09_26_drive_0039_sync']),
        (DrivingStereoDataset, [
            '2018-07-31-11-07-48', '2018-07-31-11-22-31',
            '2018-08-17-09-45-58', '2018-10-11-17-08-31',
            '2018-10-16-11-13-47', '2018-10-17-14-35-33',
            '2018-10-17-15-38-01', '2018-10-24-11-01-00'
        ], ['2018-08-01-11-13-14']),
    ):
        assert list(data.pick('train')) == train
        assert list(data.pick('test')) == test


@pytest.mark.parametrize('name', ['partial_kitti', 'driving_stereo'])
def test_drives_that_are_named(name, tmp_path):
    """Instead of the split's, in their order; one text is one drive."""
    if name == 'partial_kitti':
        drives = '2011_09_30_drive_0020_sync', '2011_09_26_drive_0023_sync'
        write_kitti(tmp_path, drives)
        config = dict(type='mmext.PartialKITTIDataset')
    else:
        drives = '2018-10-24-11-01-00', '2018-07-31-11-22-31'
        for drive in drives:
            write_driving_stereo(tmp_path, drive)
        config = dict(type='mmext.DrivingStereoDataset')
    config['data_root'] = str(tmp_path)

    def found(**options):
        data = build(config, **options)
        infos = [data.get_data_info(i) for i in range(len(data))]
        for info in infos:
            for key in ('img_path', 'spike_path', 'depth_map_path'):
                assert osp.isfile(info[key])
        return [
            next(one for one in drives if one in info['img_path'])
            for info in infos
        ]

    assert found(drives=drives) == [
        one for one in drives for _ in range(COUNT)
    ]
    assert found(drives=drives[1], split='test') == [drives[1]] * COUNT
    # all drives of a split have to be there
    with pytest.raises(MissingFileError, match='is missing'):
        found(split='train')


def test_all_frames_of_a_weather(tmp_path):
    config = write_weather(tmp_path, 'rainy', count=5)
    parts = {}
    for split in ('train', 'test', 'all'):
        data = build(config, split=split)
        infos = [data.get_data_info(i) for i in range(len(data))]
        assert {info['domain'] for info in infos} == {'rainy'}
        parts[split] = [osp.basename(info['img_path']) for info in infos]
    assert parts['all'] == [f'{i:03d}.jpg' for i in range(5)]
    assert parts['train'] + parts['test'] == parts['all']
    assert len(parts['train']) == 4


def test_respike_of_the_camera(tmp_path):
    """A .dat file and the broken .npy files of it give the same spikes."""
    size = (250, 400)
    dat = build(
        write_respike(tmp_path / 'a', 1, '.dat', size=size),
        pipeline=[*LOAD, PACK])
    npy = build(
        write_respike(tmp_path / 'b', 1, size=size), pipeline=[*LOAD, PACK])
    assert torch.equal(dat[0]['inputs'], npy[0]['inputs'])
    stored = np.load(npy.get_data_info(0)['spike_path'])
    assert (stored != dat[0]['inputs'].numpy()).any()


@pytest.fixture
def log(caplog):
    """What the package logs in this test."""
    logger = MMLogger.get_instance('depth_datasets')
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


def test_a_wrong_bit_order_is_noticed(tmp_path, log):
    """Section 7: the first recording is looked at before the run."""
    light = np.cumsum(
        np.cumsum(np.random.default_rng(1).normal(size=(64, 128)), 0), 1)
    light = (light - light.min()) / (light.max() - light.min())
    spikes = SpikeCamera(gain=0.9).expose([Light(light, 64)])
    config = write_respike(tmp_path, 1)
    path = build(config).get_data_info(0)['spike_path']
    for name, order in (('good', 'little'), ('bad', 'big')):
        write_spikes(path[:-4] + '.dat', spikes, bitorder=order)
        log.clear()
        assert build(
            config,
            spike_suffix='.dat',
            modalities=('spike', ),
            spike_options=dict(size=(64, 128)))
        assert ('bit order' in log.text) == (name == 'bad')
    write_spikes(path[:-4] + '.dat', spikes * 0)
    with pytest.raises(BadFileError, match='tick'):
        build(
            config,
            spike_suffix='.dat',
            modalities=('spike', ),
            spike_options=dict(size=(6400, 1280)))
    log.clear()
    build(
        config,
        spike_suffix='.dat',
        modalities=('spike', ),
        spike_options=dict(size=(64, 128)))
    assert path[:-4] + '.dat' in log.text


def test_the_first_recording_is_opened_as_the_pipeline_reads(tmp_path):
    """Options of LoadSpikeFromFile replace those of the data set."""
    config = write_respike(tmp_path, 1)
    path = build(config).get_data_info(0)['spike_path']
    spikes = make_frame(0)[2]
    write_spikes(path[:-4] + '.dat', spikes, flipud=False)
    options = dict(
        spike_suffix='.dat',
        modalities=('spike', ),
        spike_options=dict(size=(6400, 1280)))
    with pytest.raises(BadFileError, match='at least one tick'):
        build(config, **options)
    data = build(
        config,
        pipeline=[dict(LOAD[1], size=SIZE, flipud=False), PACK],
        **options)
    np.testing.assert_array_equal(data[0]['inputs'], spikes)


CONVERTED = [(kind, '.npy') for kind in sorted({*WRITERS} - {'respike'})]


@pytest.mark.parametrize('kind,suffix', [
    *CONVERTED,
    ('vkitti2', '.npz'),
    ('nyu', '.npz'),
])
def test_spikes_as_the_converter_writes_them(kind, suffix, tmp_path, capsys):
    """The command of the message about missing spikes gives what is read."""
    config = WRITERS[kind](tmp_path / 'data')
    folders = set()
    for info in (dataset := build(config)):
        os.remove(info['spike_path'])
        folders.add(
            tuple(
                osp.dirname(info[key]) for key in ('img_path', 'spike_path')))
    convert = tool('dataset_converters/video_to_spikes')
    pattern = ['--pattern', 'rgb_*'] if kind == 'nyu' else []
    for pictures, spikes in folders:
        convert.main([
            '--folder', pictures, '--window',
            str(TICKS), '--ticks-per-frame', '4', '--out', spikes, *pattern,
            *([] if suffix == '.npy' else ['--suffix', suffix])
        ])
        kinds = {Path(name).suffix for name in os.listdir(spikes)}
        assert kinds & {'.npy', '.npz'} == {suffix}
    simulated = build(config, pipeline=TRAIN, spike_suffix=suffix)
    assert len(simulated) == len(dataset)
    for i in range(len(simulated)):
        assert simulated[i]['inputs'].shape[0] == TICKS
    assert simulated.bad_samples == 0


class TestBadFiles:
    """What a damaged file does in a run."""

    @pytest.fixture
    def folder(self, tmp_path):
        return write_vkitti2(tmp_path / 'data')

    def _spoil(self, folder, index, kind):
        info = build(folder).get_data_info(index)
        path = info[dict(
            rgb='img_path', depth='depth_map_path', spike='spike_path')[kind]]
        return path

    def test_damaged_files_are_replaced_and_counted(self, folder, log):
        spike = self._spoil(folder, 1, 'spike')
        with open(spike, 'r+b') as file:
            file.truncate(os.path.getsize(spike) // 2)
        data = build(folder, pipeline=TRAIN)
        assert data[1]['inputs'].shape[0] == TICKS
        assert data.bad_samples >= 1
        assert spike in log.text and 'takes its place' in log.text
        tested = build(folder, pipeline=TEST, test_mode=True)
        assert tested[0]
        with pytest.raises(UnreadableSampleError, match='spike_00001.npy'):
            tested[1]

    def test_many_damaged_files_stop_the_run(self, folder):
        data = build(folder, pipeline=TRAIN, max_bad_samples=4)
        for index in range(COUNT):
            write_spikes(
                data.get_data_info(index)['spike_path'],
                np.zeros((TICKS, *SIZE), np.uint8))
        with pytest.raises(UnreadableSampleError, match='allow_silent=True'):
            data[0]
        assert data.bad_samples == 5
        steps = [dict(one) for one in TRAIN]
        steps[1]['allow_silent'] = True
        assert not build(folder, pipeline=steps)[0]['inputs'].any()

    def test_wrong_size_and_8_bit_depth_show_at_once(self, folder):
        write_depth_png(self._spoil(folder, 0, 'depth'), make_frame(0)[1], 256)
        depth = self._spoil(folder, 0, 'depth')
        cv2.imwrite(depth, np.full(SIZE, 200, np.uint8))
        with pytest.raises(BadFileError, match='16 bits'):
            build(folder)
        assert build(folder, modalities=('rgb', 'spike'))
        write_depth_png(depth, np.full((8, 8), 9.), 100)
        data = build(folder, pipeline=TEST, test_mode=True)
        with pytest.raises(UnreadableSampleError, match='8 x 8'):
            data[0]

    def test_a_wrong_scale_of_depth_is_noticed(self, folder, log):
        path = self._spoil(folder, 0, 'depth')
        for options, told in (({}, ''), (dict(depth_scale=1.), '500 to 6'),
                              (dict(depth_scale=25600.), '0.2')):
            log.clear()
            data = build(folder, **options)
            assert (f'depth of {path} goes from' in log.text) == bool(told)
            assert told in log.text
            assert not told or 'check depth_scale' in log.text
        # as the pipeline reads it
        log.clear()
        steps = [*LOAD, dict(type='mmext.LoadDepth', scale=100.), PACK]
        data = build(folder, pipeline=steps, depth_scale=1.)
        assert 'goes from' not in log.text and data[0]

    def test_settings_that_are_wrong_are_no_bad_samples(self, folder):
        data = build(folder, pipeline=[dict(type='mmext.LoadDepth'), PACK])
        with pytest.raises(ConfigError, match='LoadSpikeFromFile'):
            data[0]
        big = build(
            folder,
            pipeline=[*LOAD, dict(type='mmext.KBCrop'), PACK],
            test_mode=True)
        with pytest.raises(UnreadableSampleError, match='352 x 1216'):
            big[0]

    def test_training_goes_on(self, folder, tmp_path):
        """NaN, infinite and no depth at all, a truncated recording."""
        path = Path(self._spoil(folder, 2, 'depth'))
        write_depth_png(path, np.full(SIZE, 655.35), 100)
        spike = self._spoil(folder, 1, 'spike')
        shutil.copy(self._spoil(folder, 0, 'rgb'), spike)
        runner = run(
            loader(folder, TRAIN),
            loader(folder, TEST, indices=[0, 2], test_mode=True),
            tmp_path / 'work_bad',
            iters=4)
        scalars = runner.message_hub.log_scalars
        assert np.isfinite(scalars['train/loss'].data[0]).all()
        assert scalars['val/num_empty'].current() == 1
