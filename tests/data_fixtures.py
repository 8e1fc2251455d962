# Copyright (c) mmext contributors. All rights reserved.
"""Writers of tiny, valid folders, one per data set.

Every writer takes the root to write to and returns it as a str. Frames are
noise over a gradient, labels are blocks of classes with a border of 255; both
are the same in every run.
"""
import os
import os.path as osp
from typing import Sequence, Tuple

import cv2
import numpy as np

CONDITIONS = ('fog', 'night', 'rain', 'snow')
CAMVID_SEQUENCES = ('0006R0', '0016E5', 'Seq05VD', '0001TP')
Size = Tuple[int, int]

# What a config over one of CamVid needs to train for two iterations on
# ``write_camvid``; to be formatted with its root.
CAMVID_RUN = """
crop = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=(64, 96)),
    dict(type='PackSegInputs')
]
data = dict(data_root={root!r})
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(min_gap=0, pipeline=crop, **data))
val_dataloader = dict(num_workers=0, dataset=data)
test_dataloader = dict(
    num_workers=0, dataset=dict(domains=dict(day=data, dusk=data)))
train_cfg = dict(max_iters=2, val_interval=2)
"""


def make_frame(seed: int, size: Size, num_classes: int) -> tuple:
    """A (H, W, 3) uint8 image and a (H, W) uint8 label with 255 at its edge.

    Args:
        seed (int): Content.
        size (tuple[int, int]): Height and width.
        num_classes (int): Labels are 0 to this minus 1, and 255.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    blocks = rng.integers(0, num_classes, (4, 6)).astype(np.uint8)
    label = cv2.resize(
        blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    colours = np.random.default_rng(0).integers(0, 256, (256, 3))
    image = colours[label] + rng.normal(0, 12, (height, width, 3))
    label[:2] = 255
    return image.clip(0, 255).astype(np.uint8), label


def _write(path: str, array: np.ndarray) -> None:
    os.makedirs(osp.dirname(path), exist_ok=True)
    assert cv2.imwrite(path, array), path


def write_acdc(root,
               conditions: Sequence[str] = CONDITIONS,
               split: str = 'train',
               count: int = 2,
               size: Size = (64, 96)) -> str:
    """``rgb_anon`` and ``gt`` of ACDC; two sequences a condition."""
    for number, condition in enumerate(conditions):
        for index in range(count):
            sequence = f'GOPR{index % 2:04d}'
            stem = f'{sequence}_frame_{index:06d}'
            image, label = make_frame(100 * number + index, size, 19)
            _write(
                osp.join(root, 'rgb_anon', condition, split, sequence,
                         f'{stem}_rgb_anon.png'), image)
            _write(
                osp.join(root, 'gt', condition, split, sequence,
                         f'{stem}_gt_labelTrainIds.png'), label)
    return str(root)


def _write_cityscapes(root, folder: str, suffixes: Sequence[str], split: str,
                      count: int, size: Size) -> str:
    for index in range(count):
        city = ('lindau', 'frankfurt')[index % 2]
        stem = f'{city}_000000_{index:06d}'
        image, label = make_frame(index, size, 19)
        for suffix in suffixes:
            _write(osp.join(root, folder, split, city, stem + suffix), image)
        _write(
            osp.join(root, 'gtFine', split, city,
                     f'{stem}_gtFine_labelTrainIds.png'), label)
    return str(root)


def write_foggy_cityscapes(root,
                           split: str = 'val',
                           count: int = 3,
                           size: Size = (64, 128)) -> str:
    """Foggy Cityscapes in its three strengths."""
    return _write_cityscapes(root, 'leftImg8bit_foggy', [
        f'_leftImg8bit_foggy_beta_{beta}.png'
        for beta in ('0.005', '0.01', '0.02')
    ], split, count, size)


def write_rainy_cityscapes(root,
                           split: str = 'val',
                           count: int = 3,
                           size: Size = (64, 128)) -> str:
    """Rain Cityscapes with two of its rain settings."""
    return _write_cityscapes(root, 'leftImg8bit_rain', [
        '_leftImg8bit_rain_alpha_0.03_beta_0.015_dropsize_0.002'
        '_pattern_12.png', '_leftImg8bit_rain_alpha_0.01_beta_0.005'
        '_dropsize_0.01_pattern_1.png'
    ], split, count, size)


def write_cityscapes(root,
                     split: str = 'val',
                     count: int = 3,
                     size: Size = (64, 128)) -> str:
    """Cityscapes itself."""
    return _write_cityscapes(root, 'leftImg8bit', ['_leftImg8bit.png'], split,
                             count, size)


def write_camvid(root,
                 sequences: Sequence[str] = CAMVID_SEQUENCES,
                 count: int = 3,
                 size: Size = (72, 96)) -> str:
    """CamVid, ``images/SEQ/*.jpg`` and ``labels/SEQ/*.png``, 11 classes."""
    for number, sequence in enumerate(sequences):
        for index in range(count):
            stem = f'{sequence}_{index:05d}'
            image, label = make_frame(100 * number + index, size, 11)
            _write(osp.join(root, 'images', sequence, f'{stem}.jpg'), image)
            _write(osp.join(root, 'labels', sequence, f'{stem}.png'), label)
    return str(root)
