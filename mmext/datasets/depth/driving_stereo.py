# Copyright (c) mmext contributors. All rights reserved.
"""DrivingStereo: a part of its drives, and its four weathers."""
from typing import List, Optional, Sequence

from mmext.registry import DATASETS, register_depth
from mmext.utils.arguments import as_tuple
from mmext.utils.user_error import ConfigError
from .base import SPIKE_SOURCE, BaseDepthDataset, depth_help

_SOURCE = """
https://drivingstereo-dataset.github.io: left images and depth maps (half
size for the weathers).""" + SPIKE_SOURCE
WEATHERS = ('sunny', 'cloudy', 'rainy', 'foggy')


@register_depth(DATASETS)
class DrivingStereoDataset(BaseDepthDataset):
    """Drives of DrivingStereo (Yang et al., CVPR 2019).

    BiCross trains on eight drives and tests on a ninth. Depth is PNG with
    256 a metre; the crop is 384 x 864.

    Args:
        split (str): 'train' or 'test'. Defaults to 'train'.
        drives (Sequence[str], optional): Names of drives, instead of those
            of the split. Defaults to None.
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.

    Example:
        >>> dict(
        ...     type='mmext.DrivingStereoDataset',
        ...     data_root='data/drivingstereo',
        ...     pipeline=pipeline)
    """
    data_name = 'DrivingStereo'
    data_help = depth_help(
        """
data/drivingstereo/                          (data_root)
  left-image/2018-07-31-11-07-48/*.jpg
  depth-map/2018-07-31-11-07-48/*.png
  spike/2018-07-31-11-07-48/*.npy
  ...                          (files of one frame have one name)""", _SOURCE)
    default_scale = 256.
    default_prefix = dict(
        img_path='left-image', depth_map_path='depth-map', spike_path='spike')
    splits = dict(
        train=('2018-07-31-11-07-48', '2018-07-31-11-22-31',
               '2018-08-17-09-45-58', '2018-10-11-17-08-31',
               '2018-10-16-11-13-47', '2018-10-17-14-35-33',
               '2018-10-17-15-38-01', '2018-10-24-11-01-00'),
        test=('2018-08-01-11-13-14', ))

    def __init__(self,
                 split: str = 'train',
                 drives: Optional[Sequence[str]] = None,
                 **kwargs) -> None:
        self.drives = self.pick(split) if drives is None else \
            as_tuple(drives)
        super().__init__(**kwargs)

    def list_samples(self) -> List[dict]:
        """Frames of the drives."""
        samples = []
        for drive in self.drives:
            samples += self.by_name(drive)
        return samples


@register_depth(DATASETS)
class DrivingStereoWeatherDataset(BaseDepthDataset):
    """The 500 frames of one weather of DrivingStereo, half size.

    Args:
        weather (str): 'sunny', 'cloudy', 'rainy' or 'foggy'.
        split (str): 'train', the first 80 % by name, 'test', the rest, or
            'all'. Defaults to 'train'.
        **kwargs: See :class:`~mmext.datasets.depth.BaseDepthDataset`.

    Example:
        >>> dict(
        ...     type='mmext.DrivingStereoWeatherDataset',
        ...     weather='foggy',
        ...     data_root='data/drivingstereo_weather',
        ...     pipeline=pipeline)
    """
    data_name = 'DrivingStereo (weather)'
    data_help = depth_help(
        """
data/drivingstereo_weather/                  (data_root)
  {sunny,cloudy,rainy,foggy}/
    left-image-half-size/*.jpg
    depth-map-half-size/*.png
    spike-half-size/*.npy      (files of one frame have one name)""", _SOURCE)
    default_scale = 256.
    train_share = 0.8

    def __init__(self, weather: str, split: str = 'train', **kwargs) -> None:
        if weather not in WEATHERS:
            raise ConfigError(f'Expected a weather of {WEATHERS}, but got '
                              f'{weather!r}.')
        if split not in ('train', 'test', 'all'):
            raise ConfigError("Expected a split of 'train', 'test' or 'all', "
                              f'but got {split!r}.')
        self.weather, self.split = weather, split
        self.default_prefix = dict(
            img_path=f'{weather}/left-image-half-size',
            depth_map_path=f'{weather}/depth-map-half-size',
            spike_path=f'{weather}/spike-half-size')
        super().__init__(**kwargs)

    def list_samples(self) -> List[dict]:
        """Frames of the split."""
        samples = [dict(one, domain=self.weather) for one in self.by_name()]
        border = int(self.train_share * len(samples))
        return dict(
            train=samples[:border], test=samples[border:],
            all=samples)[self.split]
