# Copyright (c) mmext contributors. All rights reserved.
"""KITTI with improved depth: the split of Eigen et al., and a part of it."""
import os.path as osp
from typing import List, Optional, Sequence

from mmext.registry import DATASETS, register_depth
from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import BadFileError
from .base import SPIKE_SOURCE, BaseDepthDataset, depth_help, first_file

_SOURCE = """
Raw drives and annotated depth: https://www.cvlibs.net/datasets/kitti
(raw_data, and data_depth_annotated.zip unpacked as depth/). Lists of the
split come with most depth toolboxes.""" + SPIKE_SOURCE


class _KITTI(BaseDepthDataset):
    default_scale = 256.
    default_prefix = dict(
        img_path='raw', depth_map_path='depth', spike_path='spike')

    def sample(self, name: str, depth: Optional[str] = None) -> dict:
        """Paths of a frame.

        Args:
            name (str): ``date/drive/camera/data/frame.png``.
            depth (str, optional): Path of its depth below the folder of
                depth. Defaults to None: in ``train/`` or ``val/``.
        """
        parts = name.strip('/').split('/')
        if len(parts) != 5:
            raise BadFileError(
                f'Expected {self.ann_file or "names"} to have '
                'date/drive/camera/data/frame.png in the first column, but '
                f'found {name!r}.')
        _, drive, camera, _, frame = parts
        start = osp.splitext(osp.join(*parts))[0]
        found = osp.join('train', drive, 'proj_depth', 'groundtruth', camera,
                         osp.splitext(frame)[0] + '.png')
        candidates = [found, found.replace('train', 'val', 1), found[6:]]
        if depth not in (None, 'None'):
            candidates.insert(0, depth.strip('/'))
        folder = self.folder('depth')
        candidates = [osp.join(folder, one) for one in candidates]
        return dict(
            rgb=self._image(start),
            spike=osp.join(self.folder('spike'), start + self.spike_suffix),
            depth=first_file(candidates) or candidates[0])

    def _image(self, start: str) -> str:
        """Drives are kept as .png or, smaller, as .jpg."""
        start = osp.join(self.folder('rgb'), start)
        found = first_file([start + '.png', start + '.jpg'])
        return found or start + '.png'


@register_depth(DATASETS)
class KITTIDepthDataset(_KITTI):
    """KITTI with the split of Eigen et al. (NIPS 2014) or any list.

    ``ann_file`` has one frame a line, ``date/drive/camera/data/frame.png``
    in its first column and, optionally, the path of the depth in its second
    one ('None' if there is none). Frames that lack a file are left out, as
    the authors do: 45 of the 697 listed test frames have no depth.

    Args:
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.

    Example:
        >>> dict(
        ...     type='mmext.KITTIDepthDataset',
        ...     data_root='data/kitti',
        ...     ann_file='eigen_train_files.txt',
        ...     pipeline=pipeline)
    """
    data_name = 'KITTI (Eigen)'
    drop_by_default = True
    data_help = depth_help(
        """
data/kitti/                                  (data_root)
  eigen_train_files.txt                      (ann_file)
  raw/2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.png
  spike/2011_09_26/2011_09_26_drive_0001_sync/image_02/data/0000000005.npy
  depth/{train,val}/2011_09_26_drive_0001_sync/proj_depth/groundtruth/
    image_02/0000000005.png""", _SOURCE)

    def list_samples(self) -> List[dict]:
        """Frames of the list."""
        return [self.sample(*line[:2]) for line in self.read_lines()]


@register_depth(DATASETS)
class PartialKITTIDataset(_KITTI):
    """Some drives of KITTI, the target of the authors' synthetic to real.

    Args:
        split (str): 'train' or 'test'. Defaults to 'train'.
        drives (Sequence[str], optional): Such as
            '2011_09_26_drive_0039_sync', instead of those of the split
            (training: 0019, 0023, 0035, 0046, 0064 of 2011_09_26 and 0020 of
            2011_09_30; testing: 0039, the table of the paper).
            Defaults to None.
        camera (str): Defaults to 'image_02'.
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.
            Frames without depth (the first and last 5 of each drive) are
            left out.

    Example:
        >>> dict(
        ...     type='mmext.PartialKITTIDataset',
        ...     data_root='data/kitti',
        ...     modalities=('spike', ),
        ...     pipeline=pipeline)
    """
    data_name = 'KITTI (partial)'
    drop_by_default = True
    data_help = depth_help(
        KITTIDepthDataset.data_help.layout.replace(
            '\n  eigen_train_files.txt                      (ann_file)', ''),
        _SOURCE)
    splits = dict(
        train=(*(f'2011_09_26_drive_{number}_sync'
                 for number in ('0019', '0023', '0035', '0046', '0064')),
               '2011_09_30_drive_0020_sync'),
        test=('2011_09_26_drive_0039_sync', ))

    def __init__(self,
                 split: str = 'train',
                 drives: Optional[Sequence[str]] = None,
                 camera: str = 'image_02',
                 **kwargs) -> None:
        self.drives = self.pick(split) if drives is None else \
            as_tuple(drives)
        self.camera = camera
        super().__init__(**kwargs)

    def list_samples(self) -> List[dict]:
        """Frames of the drives, by the files of images or spikes."""
        lead = 'rgb' if 'rgb' in self.modalities else 'spike'
        ends = dict(rgb='.*g', spike=self.spike_suffix)
        samples = []
        for drive in self.drives:
            parts = (drive[:10], drive, self.camera, 'data')
            for path in self.find(self.folder(lead), *parts, f'*{ends[lead]}'):
                frame = osp.splitext(osp.basename(path))[0] + '.png'
                samples.append(self.sample('/'.join((*parts, frame))))
        return samples
