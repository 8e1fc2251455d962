# Copyright (c) mmext contributors. All rights reserved.
"""Writers of tiny, valid folders of the classification data sets.

Every writer takes the root to write to and returns it as a str. Images of one
class have one colour and some noise, so that a model can learn them.
"""
import hashlib
import json
import os
import os.path as osp
import pickle
from typing import Sequence

import cv2
import numpy as np

from mmext.datasets.vtab import SPLITS, VTAB_TASKS


def _encode(label: int, index: int, suffix: str = '.jpg') -> bytes:
    """A 24x20 picture as the bytes of a file."""
    colour = np.random.default_rng(label).integers(40, 216, 3)
    noise = np.random.default_rng((label, index)).normal(0, 20, (24, 20, 3))
    image = (colour + noise).clip(0, 255).astype(np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def _write(path: str, content: bytes) -> None:
    os.makedirs(osp.dirname(path), exist_ok=True)
    with open(path, 'wb') as file:
        file.write(content)


def write_vtab(root,
               tasks: Sequence[str] = ('cifar', 'kitti'),
               count: int = 4) -> str:
    """``TASK/SPLIT.txt`` and ``TASK/images/SPLIT/*.jpg``."""
    for task in tasks:
        for split in SPLITS:
            lines = []
            for index in range(count):
                label = index % VTAB_TASKS[task]
                name = f'images/{split}/{index:06d}.jpg'
                _write(osp.join(root, task, name), _encode(label, index))
                lines.append(f'{name} {label}\n')
            _write(
                osp.join(root, task, f'{split}.txt'), ''.join(lines).encode())
    return str(root)


def write_fgvc(root,
               tasks: Sequence[str] = ('cars', 'cub', 'dogs', 'flowers',
                                       'nabirds'),
               images: int = 1000) -> str:
    """``FOLDER/{train,val,test}.json`` and the images.

    All classes are in ``train.json``, as the data set checks, one image each,
    of which the first ``images`` are written. Validation and test have four
    images, and lack the first class.
    """
    from mmext.datasets.fgvc import FGVC_TASKS
    for task in tasks:
        _, num_classes, folder, prefix = FGVC_TASKS[task]
        folder = osp.join(root, folder)
        for split in ('train', 'val', 'test'):
            labels = range(num_classes) if split == 'train' else range(1, 5)
            names = {}
            for index, label in enumerate(labels):
                name = f'{label:03d}/{split}_{index}.jpg'
                if index < images:
                    _write(
                        osp.join(folder, prefix, name), _encode(label, index))
                names[name] = label + 1
            _write(
                osp.join(folder, f'{split}.json'),
                json.dumps(names).encode())
    return str(root)


def write_elpv(root, count: int = 1016) -> str:
    """``labels.csv`` and ``images/cellNNNN.png``; eight equal classes."""
    lines = []
    for index in range(count):
        name = f'images/cell{index + 1:04d}.png'
        level = index % 4
        _write(osp.join(root, name), _encode(level, index % 8, '.png'))
        lines.append(f'{name}  {level / 3}  '
                     f'{("mono", "poly")[index // 4 % 2]}\n')
    _write(osp.join(root, 'labels.csv'), ''.join(lines).encode())
    return str(root)


def write_cifar10(root, count: int = 20) -> str:
    """``cifar-10-batches-bin``: ``count`` images a file, labels in turn.

    The checksums are not the official ones: read it with ``check=False``.
    """
    from mmext.datasets.cifar10_binary import FILES, FOLDER
    for number, name in enumerate(FILES):
        rng = np.random.default_rng(number)
        labels = np.arange(count) % 10
        colours = np.random.default_rng(0).integers(40, 216, (10, 3, 1))
        pixels = colours[labels] + rng.normal(0, 20, (count, 3, 1024))
        rows = np.concatenate(
            [labels[:, None],
             pixels.clip(0, 255).reshape(count, -1)], 1)
        _write(osp.join(root, FOLDER, name), rows.astype(np.uint8).tobytes())
    return str(root)


def write_cifar100(root, count: int = 20) -> str:
    """``cifar-100-python``: pickles as in the archive, labels in turn.

    The checksums are not the official ones: see :func:`own_checksums`.
    """
    rng = np.random.default_rng(0)
    entries = {
        name:
        dict(
            data=rng.integers(0, 256, (count, 3072), np.uint8),
            fine_labels=(np.arange(count) % 100).tolist())
        for name in ('train', 'test')
    }
    entries['meta'] = dict(fine_label_names=[f'class {i}' for i in range(100)])
    for name, entry in entries.items():
        _write(osp.join(root, 'cifar-100-python', name), pickle.dumps(entry))
    return str(root)


def own_checksums(root, monkeypatch) -> None:
    """mmpretrain accepts the original CIFAR-100 only; let it take ours."""
    from mmpretrain.datasets import CIFAR100

    def md5(name):
        with open(osp.join(root, 'cifar-100-python', name), 'rb') as file:
            return hashlib.md5(file.read()).hexdigest()

    monkeypatch.setattr(CIFAR100, 'train_list', [['train', md5('train')]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', md5('test')]])
    monkeypatch.setattr(CIFAR100, 'meta', dict(CIFAR100.meta, md5=md5('meta')))


def write_aircraft(root, count: int = 4) -> str:
    """FGVC-Aircraft: ``images_variant_{trainval,test}.txt``."""
    from mmpretrain.datasets.categories import FGVCAIRCRAFT_CATEGORIES
    for split in ('trainval', 'test'):
        lines = []
        for index in range(count):
            name = f'{split}{index}'
            _write(
                osp.join(root, 'data', 'images', f'{name}.jpg'),
                _encode(index, index))
            lines.append(f'{name} {FGVCAIRCRAFT_CATEGORIES[index]}\n')
        _write(
            osp.join(root, 'data', f'images_variant_{split}.txt'),
            ''.join(lines).encode())
    return str(root)


def write_food101(root, count: int = 4) -> str:
    """Food-101: ``meta/{train,test}.txt``."""
    from mmpretrain.datasets.categories import FOOD101_CATEGORIES
    for split in ('train', 'test'):
        names = [f'{FOOD101_CATEGORIES[i]}/{split}{i}' for i in range(count)]
        for index, name in enumerate(names):
            _write(
                osp.join(root, 'images', f'{name}.jpg'), _encode(index, index))
        _write(
            osp.join(root, 'meta', f'{split}.txt'), '\n'.join(names).encode())
    return str(root)


def write_fashion_mnist(root, count: int = 40) -> str:
    """The four idx files, labels in turn."""
    for split in ('train', 't10k'):
        labels = (np.arange(count) % 10).astype(np.uint8)
        pixels = np.random.default_rng(0).integers(0, 256, (count, 28, 28))
        sizes = np.array([2051, count, 28, 28], '>i4').tobytes()
        _write(
            osp.join(root, f'{split}-images-idx3-ubyte'),
            sizes + pixels.astype(np.uint8).tobytes())
        _write(
            osp.join(root, f'{split}-labels-idx1-ubyte'),
            np.array([2049, count], '>i4').tobytes() + labels.tobytes())
    return str(root)
