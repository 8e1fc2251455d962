# Copyright (c) mmext contributors. All rights reserved.
import os
import os.path as osp

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ..data_fixtures import (CONDITIONS, write_acdc, write_foggy_cityscapes,
                             write_rainy_cityscapes)

pytestmark = pytest.mark.stack_subset
BASES = osp.join(
    osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__)))), 'configs',
    '_base_', 'datasets')
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
# type, image folder, label folder, writer, part of the layout in the message
SETS = dict(
    acdc=('mmext.ACDCDataset', 'rgb_anon/fog/train', 'gt/fog/train',
          write_acdc, 'rgb_anon/{fog,night,rain,snow}'),
    foggy=('mmext.FoggyCityscapesDataset', 'leftImg8bit_foggy/val',
           'gtFine/val', write_foggy_cityscapes, 'leftImg8bit_foggy/val'),
    rainy=('mmext.RainyCityscapesDataset', 'leftImg8bit_rain/val',
           'gtFine/val', write_rainy_cityscapes, 'leftImg8bit_rain/val'))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmseg')


def build(name, root, labelled=True, **kwargs):
    kind, images, labels, _, _ = SETS[name]
    prefix = dict(img_path=images)
    if labelled:
        prefix['seg_map_path'] = labels
    settings = dict(pipeline=PIPELINE, test_mode=True)
    settings.update(kwargs)
    return DATASETS.build(
        dict(type=kind, data_root=str(root), data_prefix=prefix, **settings))


@pytest.mark.parametrize('name', SETS)
def test_loads_in_sorted_order(name, tmp_path):
    SETS[name][3](tmp_path, count=3)
    dataset = build(name, tmp_path)
    assert len(dataset) == 3 and len(dataset.metainfo['classes']) == 19
    paths = [dataset.get_data_info(i)['img_path'] for i in range(3)]
    assert paths == sorted(paths)
    for index in range(3):
        item = dataset[index]
        sample = item['data_samples']
        assert item['inputs'].shape[0] == 3
        assert sample.gt_sem_seg.shape == item['inputs'].shape[1:]
        # The label belongs to the image: same stem.
        stem = osp.basename(sample.img_path).split('_rgb')[0]
        stem = stem.split('_leftImg8bit')[0]
        assert osp.basename(sample.seg_map_path).startswith(stem)
        values = np.unique(sample.gt_sem_seg.data)
        assert values.max() == 255 and values[values < 255].max() < 19


@pytest.mark.parametrize('name', SETS)
def test_missing_folder(name, tmp_path):
    _, images, labels, writer, layout = SETS[name]
    with pytest.raises(FileNotFoundError) as caught:
        build(name, tmp_path / 'nowhere')
    message = str(caught.value)
    assert str(tmp_path / 'nowhere' / images) in message
    assert layout in message and 'streetworld.py' in message
    assert 'https://' in message
    writer(tmp_path)
    os.rename(tmp_path / labels.split('/')[0], tmp_path / 'away')
    with pytest.raises(FileNotFoundError) as caught:
        build(name, tmp_path)
    assert str(tmp_path / labels) in str(caught.value)


@pytest.mark.parametrize('name', SETS)
def test_empty_folder(name, tmp_path):
    _, images, labels, _, _ = SETS[name]
    os.makedirs(tmp_path / images)
    os.makedirs(tmp_path / labels)
    with pytest.raises(FileNotFoundError, match=r'has no file \*_'):
        build(name, tmp_path)


@pytest.mark.parametrize('name', SETS)
def test_image_without_its_label(name, tmp_path):
    SETS[name][3](tmp_path, count=3)
    gone = build(name, tmp_path).get_data_info(1)['seg_map_path']
    os.remove(gone)
    with pytest.raises(FileNotFoundError) as caught:
        build(name, tmp_path)
    assert gone in str(caught.value)
    assert 'labels of 1 of 3 images' in str(caught.value)
    assert 'without labels' in str(caught.value)


@pytest.mark.parametrize('name', SETS)
def test_without_labels(name, tmp_path):
    SETS[name][3](tmp_path)
    os.rename(tmp_path / SETS[name][2].split('/')[0], tmp_path / 'away')
    dataset = build(
        name, tmp_path, labelled=False, pipeline=[PIPELINE[0], PIPELINE[2]])
    assert 'gt_sem_seg' not in dataset[0]['data_samples']
    # With labels asked for in the pipeline only, the error names the file.
    dataset = build(name, tmp_path, labelled=False)
    with pytest.raises(RuntimeError, match='seg_map_path'):
        dataset[0]


@pytest.mark.parametrize('kind', ['empty', 'text', 'cut', 'label'])
def test_damaged_files_are_named(kind, tmp_path):
    write_acdc(tmp_path)
    dataset = build('acdc', tmp_path)
    info = dataset.get_data_info(1)
    path = info['seg_map_path' if kind == 'label' else 'img_path']
    with open(path, 'rb') as file:
        content = file.read()
    with open(path, 'wb') as file:
        file.write(
            dict(empty=b'',
                 text=b'not an image' * 9).get(kind,
                                               content[:len(content) // 2]))
    dataset[0]
    with pytest.raises(RuntimeError) as caught:
        dataset[1]
    assert info['img_path'] in str(caught.value)
    assert path in str(caught.value) and caught.value.__cause__ is not None


def test_damaged_file_is_named_through_workers(tmp_path):
    write_acdc(tmp_path)
    dataset = build('acdc', tmp_path)
    path = dataset.get_data_info(0)['img_path']
    open(path, 'wb').close()
    loader = DataLoader(dataset, num_workers=1, collate_fn=pseudo_collate)
    with pytest.raises(RuntimeError, match=osp.basename(path)):
        next(iter(loader))


def test_fog_strength_is_a_setting(tmp_path):
    write_foggy_cityscapes(tmp_path)
    for beta in (0.005, 0.01, 0.02):
        path = build('foggy', tmp_path, beta=beta).get_data_info(0)['img_path']
        assert path.endswith(f'_foggy_beta_{beta}.png')
    with pytest.raises(FileNotFoundError, match='beta_0.03.png'):
        build('foggy', tmp_path, beta=0.03)


def test_rain_is_a_setting(tmp_path):
    write_rainy_cityscapes(tmp_path)
    path = build('rainy', tmp_path).get_data_info(0)['img_path']
    assert path.endswith('_leftImg8bit_rain_alpha_0.03_beta_0.015_dropsize_'
                         '0.002_pattern_12.png')
    path = build(
        'rainy', tmp_path, alpha=0.01, beta=0.005, dropsize=0.01,
        pattern=1).get_data_info(0)['img_path']
    assert path.endswith('alpha_0.01_beta_0.005_dropsize_0.01_pattern_1.png')


# The shipped bases


def base(name, root):
    cfg = Config.fromfile(osp.join(BASES, name))
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        for domain in loader.dataset.domains.values():
            domain.data_root = str(root)
        loader.update(num_workers=0, persistent_workers=False)
    return cfg


def test_acdc_base_gives_14_views(tmp_path):
    """Views are ratio-major, plain then mirrored; view 4 is 960x540."""
    write_acdc(tmp_path, size=(1080, 1920), count=1)
    cfg = base('acdc_sequence.py', tmp_path)
    assert 'val_dataloader' not in cfg
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    dataset = loader.dataset
    assert len(dataset) == len(loader) == 12
    assert [(v.round, v.domain) for v in dataset.visits
            ] == [(r, c) for r in (1, 2, 3) for c in CONDITIONS]
    item = dataset[5]
    assert [tuple(v.shape[1:]) for v in item['inputs']] == [
        (int(540 * ratio), int(960 * ratio))
        for ratio in (.5, .75, 1., 1.25, 1.5, 1.75, 2.) for _ in range(2)
    ]
    samples = item['data_samples']
    assert [s.flip for s in samples] == [False, True] * 7
    assert all(s.flip_direction == 'horizontal' for s in samples[1::2])
    assert tuple(item['inputs'][4].shape) == (3, 540, 960)
    assert not samples[4].flip
    assert (item['inputs'][5] == item['inputs'][4].flip(-1)).all()
    for sample in samples:
        assert sample.gt_sem_seg.shape == (1080, 1920)
        assert (sample.gt_sem_seg.data == samples[0].gt_sem_seg.data).all()
        assert sample.ori_shape == (1080, 1920)
        assert (sample.domain, sample.round) == ('night', 2)


def test_acdc_base_test_loader(tmp_path):
    write_acdc(tmp_path, size=(1080, 1920), count=1)
    cfg = base('acdc_sequence.py', tmp_path)
    loader = Runner.build_dataloader(cfg.test_dataloader, seed=0)
    assert len(loader) == 4
    for batch, condition in zip(loader, CONDITIONS):
        assert tuple(batch['inputs'][0].shape) == (3, 540, 960)
        sample = batch['data_samples'][0]
        assert sample.gt_sem_seg.shape == (1080, 1920)
        assert sample.domain == condition and sample.round == 1
    assert list(cfg.test_evaluator.domains) == list(CONDITIONS)


@pytest.mark.parametrize(
    'name, writer, domain',
    [('cityscapes_foggy.py', write_foggy_cityscapes, 'fog'),
     ('cityscapes_rainy.py', write_rainy_cityscapes, 'rain')])
def test_cityscapes_bases(name, writer, domain, tmp_path):
    writer(tmp_path, size=(256, 512), count=2)
    cfg = base(name, tmp_path)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    views = dataset[1]['inputs']
    assert len(dataset) == 2 and len(views) == 14
    assert tuple(views[4].shape) == (3, 512, 1024)
    assert tuple(views[13].shape) == (3, 1024, 2048)
    sample = dataset[1]['data_samples'][13]
    assert sample.domain == domain and sample.flip
    assert sample.gt_sem_seg.shape == (256, 512)
    item = DATASETS.build(cfg.test_dataloader.dataset)[0]
    assert tuple(item['inputs'].shape) == (3, 512, 1024)
    # Building leaves the config as it was: TestTimeAug fills in objects.
    assert 'object at' not in cfg.pretty_text
