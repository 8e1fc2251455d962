# Copyright (c) mmext contributors. All rights reserved.
"""Virtual KITTI, versions 2.0.3 and 1.3.1."""
import os.path as osp
from typing import List, Optional, Sequence

from mmext.registry import DATASETS, register_depth
from mmext.utils.arguments import as_tuple
from .base import SPIKE_SOURCE, BaseDepthDataset, depth_help, first_file, stem

_SOURCE = """
Register at https://europe.naverlabs.com/research/computer-vision, fetch RGB
and depth, unpack both into data_root (or set data_prefix).""" + SPIKE_SOURCE


class _SceneDataset(BaseDepthDataset):
    """Scenes, each in several variants."""

    default_scale = 100.

    def __init__(self,
                 split: str = 'train',
                 scenes: Optional[Sequence[str]] = None,
                 variants: Sequence[str] = ('clone', ),
                 **kwargs) -> None:
        self.scenes = self.pick(split) if scenes is None else \
            as_tuple(scenes)
        self.variants = as_tuple(variants)
        super().__init__(**kwargs)


@register_depth(DATASETS)
class VKITTI2Dataset(_SceneDataset):
    """Virtual KITTI 2.0.3: synthetic streets with exact depth.

    Depth is PNG with 100 a metre; the sky has 655.35 m, beyond any
    ``max_depth``. BiCross trains on scenes 01, 02, 06, 20 (1787 images of
    one camera and variant) and tests on 18 (339).

    Args:
        split (str): 'train' or 'test'. Defaults to 'train'.
        scenes (Sequence[str], optional): Names of scenes, instead of those
            of the split. Defaults to None.
        variants (Sequence[str]): Such as 'clone', 'fog', 'rain'.
            Defaults to ('clone', ).
        cameras (Sequence[str]): Defaults to ('Camera_0', ).
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.

    Example:
        >>> dict(
        ...     type='mmext.VKITTI2Dataset',
        ...     data_root='data/vkitti2',
        ...     pipeline=pipeline)
    """
    data_name = 'Virtual KITTI 2'
    data_help = depth_help(
        """
data/vkitti2/                                (data_root)
  Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
  Scene01/clone/frames/depth/Camera_0/depth_00000.png
  Scene01/clone/frames/spike/Camera_0/rgb_00000.npy   (or spike_00000.npy)
  Scene{02,06,18,20}/...""", _SOURCE)
    splits = dict(
        train=('Scene01', 'Scene02', 'Scene06', 'Scene20'), test=('Scene18', ))

    def __init__(self,
                 *args,
                 cameras: Sequence[str] = ('Camera_0', ),
                 **kwargs) -> None:
        self.cameras = as_tuple(cameras)
        super().__init__(*args, **kwargs)

    def list_samples(self) -> List[dict]:
        """Frames of all scenes, variants and cameras."""
        lead = self.modalities[0]
        ends = dict(rgb='.jpg', depth='.png', spike=self.spike_suffix)
        samples = []
        for scene in self.scenes:
            for variant in self.variants:
                for camera in self.cameras:
                    where = {
                        one: osp.join(
                            self.folder(one), scene, variant, 'frames', one,
                            camera)
                        for one in ends
                    }
                    for path in self.find(where[lead], '*_*' + ends[lead]):
                        number = stem(path).rsplit('_', 1)[1]
                        sample = {
                            one:
                            osp.join(where[one], f'{one}_{number}{ends[one]}')
                            for one in ends
                        }
                        # A simulated window has the name of its frame.
                        other = osp.join(where['spike'],
                                         f'rgb_{number}{self.spike_suffix}')
                        sample['spike'] = first_file(
                            [sample['spike'], other]) or other
                        samples.append(sample)
        return samples


@register_depth(DATASETS)
class VKITTIDataset(_SceneDataset):
    """Virtual KITTI 1.3.1, see :class:`VKITTI2Dataset`.

    Args:
        split (str): 'train' or 'test'. Defaults to 'train'.
        scenes (Sequence[str], optional): Defaults to None: 0001, 0002, 0006
            and 0020 in training, 0018 in testing.
        variants (Sequence[str]): Defaults to ('clone', ).
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.
    """
    data_name = 'Virtual KITTI 1.3.1'
    data_help = depth_help(
        """
data/vkitti/                                 (data_root)
  vkitti_1.3.1_rgb/0001/clone/00000.png
  vkitti_1.3.1_depthgt/0001/clone/00000.png
  vkitti_1.3.1_spike/0001/clone/00000.npy
  ...""", _SOURCE)
    splits = dict(train=('0001', '0002', '0006', '0020'), test=('0018', ))
    default_prefix = dict(
        img_path='vkitti_1.3.1_rgb',
        depth_map_path='vkitti_1.3.1_depthgt',
        spike_path='vkitti_1.3.1_spike')

    def list_samples(self) -> List[dict]:
        """Frames of all scenes and variants."""
        samples = []
        for scene in self.scenes:
            for variant in self.variants:
                samples += self.by_name(scene, variant, rgb='.png')
        return samples
