# Copyright (c) mmext contributors. All rights reserved.
"""Indoor: NYU depth v2 with simulated, Respike with recorded spikes."""
import os.path as osp
from typing import List, Optional

from mmext.registry import DATASETS, register_depth
from mmext.utils.user_error import BadFileError, ConfigError
from .base import SPIKE_SOURCE, BaseDepthDataset, depth_help, first_file


@register_depth(DATASETS)
class NYUDepthDataset(BaseDepthDataset):
    """NYU depth v2 with a list of frames.

    ``ann_file`` has two columns, image and depth, ``scene/seq/file`` below
    ``data_root`` (what follows is ignored). Depth is PNG with 1000 a metre.
    A recording has the name of its image, or the authors' name for it:
    every letter r replaced by s (``rgb_0001.jpg``, ``sgb_0001.npy``).

    Args:
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.

    Example:
        >>> dict(
        ...     type='mmext.NYUDepthDataset',
        ...     data_root='data/nyu',
        ...     ann_file='nyu_train.txt',
        ...     pipeline=pipeline)
    """
    data_name = 'NYU depth v2'
    data_help = depth_help(
        """
data/nyu/                                    (data_root)
  nyu_train.txt                              (ann_file)
  SCENE/SEQUENCE/rgb_00000.jpg
  SCENE/SEQUENCE/sync_depth_00000.png
  SCENE/SEQUENCE/rgb_00000.npy               (or sgb_00000.npy)""", """
https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html, with the pictures
and lists that depth toolboxes share.""" + SPIKE_SOURCE + """
Add --pattern 'rgb_*' here, as depth maps are in the same folders.""")
    default_scale = 1000.

    def list_samples(self) -> List[dict]:
        """Frames of the list."""
        samples = []
        for line in self.read_lines():
            if len(line) < 2:
                raise BadFileError(
                    f'Expected image and depth in each line of '
                    f'{self.ann_file}, but found {" ".join(line)!r}.')
            image, depth = (name.lstrip('/') for name in line[:2])
            samples.append(
                dict(
                    rgb=osp.join(self.folder('rgb'), image),
                    depth=osp.join(self.folder('depth'), depth),
                    spike=self._spikes(image)))
        return samples

    def _spikes(self, image: str) -> str:
        folder, name = osp.split(image)
        name = osp.splitext(name)[0]
        paths = [
            osp.join(self.folder('spike'), folder, start + self.spike_suffix)
            for start in (name.replace('r', 's'), name)
        ]
        return first_file(paths) or paths[1]


@register_depth(DATASETS)
class RespikeDataset(BaseDepthDataset):
    """Respike: the indoor part of PKU-Spike-Stereo, left camera.

    Real recordings of 250 x 400 pixels with depth in PFM files. Their .npy
    cubes were unpacked in the wrong order of bits and upside down, and are
    repaired while they are read; the camera's .dat files need no repair:
    ``spike_suffix='.dat'``. The image is a reconstruction from the spikes.

    Args:
        split (str): 'train' or 'val'. Defaults to 'train'.
        repair (bool, optional): Repair the recordings, see
            :func:`mmext.spike.repair_big_endian`. Defaults to None: .npy
            yes, .dat no.
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.

    Example:
        >>> dict(
        ...     type='mmext.RespikeDataset',
        ...     data_root='data/respike',
        ...     modalities=('spike', ),
        ...     pipeline=pipeline)
    """
    data_name = 'Respike'
    data_help = depth_help(
        """
data/respike/                                (data_root)
  {train,val}/
    rgb/*.png
    spike/*.npy                              (or *.dat)
    depth/*.pfm                (files of one frame have one name)""", """
PKU-Spike-Stereo, of the authors of BiCross and of its data set; copy the
indoor part of the left camera into these folders.""")
    size = (250, 400)

    def __init__(self,
                 split: str = 'train',
                 repair: Optional[bool] = None,
                 **kwargs) -> None:
        if split not in ('train', 'val'):
            raise ConfigError("Expected a split of 'train' or 'val', but got "
                              f'{split!r}.')
        dat = kwargs.get('spike_suffix', '.npy') == '.dat'
        options = dict(repair=not dat if repair is None else repair)
        if dat:
            options['size'] = self.size
        self.default_spike_options = options
        self.default_prefix = dict(
            img_path=f'{split}/rgb',
            spike_path=f'{split}/spike',
            depth_map_path=f'{split}/depth')
        super().__init__(**kwargs)

    def list_samples(self) -> List[dict]:
        """Frames of the split."""
        return self.by_name(depth='.pfm')
