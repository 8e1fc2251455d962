# Copyright (c) mmext contributors. All rights reserved.
"""Writers of tiny, valid folders, one per depth data set.

Every writer takes the root to write to and returns the arguments of the data
set that reads it. Images are noise over a gradient, depth falls from top to
bottom and has holes, spikes are those of a simulated camera.
"""
import os
import os.path as osp

import cv2
import numpy as np

from mmext.spike import (SpikeCamera, grey, repair_big_endian, write_depth_png,
                         write_pfm, write_spikes)

SIZE, TICKS, COUNT = (64, 104), 16, 3


def make_frame(seed, size=SIZE, ticks=TICKS):
    """Image (H, W, 3), depth (H, W) in metres, spikes (T, H, W)."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 1, size[0])[:, None, None]
    image = 60 + 150 * rows + rng.normal(0, 15, (*size, 3))
    image = image.clip(0, 255).astype(np.uint8)
    depth = np.broadcast_to(60 - 55 * rows[..., 0], size).copy()
    depth += rng.random(size)
    depth[:, ::5] = 0
    camera = SpikeCamera(gain=0.5, seed=seed)
    return image, depth, camera.expose_frames([grey(image)],
                                              ticks_per_frame=ticks)


def write_frame(seed, rgb, depth, spike, scale, repair=False, **options):
    """Write the three files of a frame; the endings say how."""
    image, metres, spikes = make_frame(seed, **options)
    for path in (rgb, depth, spike):
        os.makedirs(osp.dirname(path), exist_ok=True)
    assert cv2.imwrite(rgb, image), rgb
    if depth.endswith('.pfm'):
        write_pfm(depth, metres)
    else:
        write_depth_png(depth, metres, scale)
    # Its own inverse.
    write_spikes(spike, repair_big_endian(spikes) if repair else spikes)


def write_vkitti2(root, scenes=('Scene01', 'Scene18'), count=COUNT):
    """Virtual KITTI 2."""
    for number, scene in enumerate(scenes):
        start = osp.join(root, scene, 'clone', 'frames')
        for i in range(count):
            write_frame(
                10 * number + i,
                *(osp.join(start, kind, 'Camera_0', f'{kind}_{i:05d}{end}')
                  for kind, end in (('rgb', '.jpg'), ('depth', '.png'),
                                    ('spike', '.npy'))), 100)
    return dict(
        type='mmext.VKITTI2Dataset',
        data_root=str(root),
        scenes=list(scenes[:1]))


def write_vkitti(root, scenes=('0001', '0018'), count=COUNT):
    """Virtual KITTI 1.3.1."""
    for number, scene in enumerate(scenes):
        for i in range(count):
            write_frame(
                10 * number + i,
                *(osp.join(root, f'vkitti_1.3.1_{kind}', scene, 'clone',
                           f'{i:05d}{end}')
                  for kind, end in (('rgb', '.png'), ('depthgt', '.png'),
                                    ('spike', '.npy'))), 100)
    return dict(
        type='mmext.VKITTIDataset',
        data_root=str(root),
        scenes=list(scenes[:1]))


def write_kitti(root, drives=('2011_09_26_drive_0039_sync', ), count=COUNT):
    """KITTI with a list of one frame more, which has no depth."""
    lines = []
    for number, drive in enumerate(drives):
        for i in range(count + 1):
            name = f'{drive[:10]}/{drive}/image_02/data/{i:010d}'
            lines.append(f'{name}.png\n')
            depth = osp.join(root, 'depth', 'val', drive, 'proj_depth',
                             'groundtruth', 'image_02', f'{i:010d}.png')
            write_frame(10 * number + i, osp.join(root, 'raw', f'{name}.png'),
                        depth, osp.join(root, 'spike', f'{name}.npy'), 256)
            if i == count:
                os.remove(depth)
    with open(osp.join(root, 'eigen.txt'), 'w') as file:
        file.writelines(lines)
    return dict(
        type='mmext.KITTIDepthDataset',
        data_root=str(root),
        ann_file='eigen.txt')


def write_partial_kitti(root):
    """The same files, by drive."""
    write_kitti(root)
    return dict(
        type='mmext.PartialKITTIDataset', data_root=str(root), split='test')


def write_driving_stereo(root, drive='2018-08-01-11-13-14', count=COUNT):
    """One drive of DrivingStereo."""
    for i in range(count):
        write_frame(
            i,
            *(osp.join(root, kind, drive, f'{drive}_{i:03d}{end}')
              for kind, end in (('left-image', '.jpg'), ('depth-map', '.png'),
                                ('spike', '.npy'))), 256)
    return dict(
        type='mmext.DrivingStereoDataset', data_root=str(root), split='test')


def write_weather(root, weather='foggy', count=5):
    """One weather of DrivingStereo: 4 frames for training, 1 for testing."""
    for i in range(count):
        write_frame(
            i,
            *(osp.join(root, weather, f'{kind}-half-size', f'{i:03d}{end}')
              for kind, end in (('left-image', '.jpg'), ('depth-map', '.png'),
                                ('spike', '.npy'))), 256)
    return dict(
        type='mmext.DrivingStereoWeatherDataset',
        weather=weather,
        data_root=str(root))


def write_nyu(root, count=COUNT):
    """NYU, with the authors' names of the recordings."""
    lines = []
    for i in range(count):
        start = 'bedroom/bedroom_0001/'
        names = [
            start + f'rgb_{i:05d}.jpg', start + f'sync_depth_{i:05d}.png',
            start + f'sgb_{i:05d}.npy'
        ]
        write_frame(i, *(osp.join(root, name) for name in names), 1000)
        lines.append(f'/{names[0]} /{names[1]} 518.8\n')
    with open(osp.join(root, 'train.txt'), 'w') as file:
        file.writelines(lines)
    return dict(
        type='mmext.NYUDepthDataset',
        data_root=str(root),
        ann_file='train.txt')


def write_respike(root, count=COUNT, suffix='.npy', **options):
    """Respike, as its .npy files are stored or as the camera stores them."""
    for i in range(count):
        write_frame(
            i,
            *(osp.join(root, 'train', kind, f'{i:04d}{end}')
              for kind, end in (('rgb', '.png'), ('depth', '.pfm'), ('spike',
                                                                     suffix))),
            1,
            repair=suffix == '.npy',
            **options)
    return dict(
        type='mmext.RespikeDataset', data_root=str(root), spike_suffix=suffix)


WRITERS = dict(
    vkitti2=write_vkitti2,
    vkitti=write_vkitti,
    kitti=write_kitti,
    partial_kitti=write_partial_kitti,
    driving_stereo=write_driving_stereo,
    weather=write_weather,
    nyu=write_nyu,
    respike=write_respike)
