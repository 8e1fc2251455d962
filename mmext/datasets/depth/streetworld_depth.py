# Copyright (c) mmext contributors. All rights reserved.
"""Street scenes with spikes and metric depth, drawn when asked for."""
import hashlib
import json
import logging
import os.path as osp
import zipfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log

from mmext.registry import DATASETS, TRANSFORMS, register_depth
from mmext.spike import (SpikeCamera, grey, light_from_frames,
                         streetworld_frames)
from mmext.utils.arguments import as_tuple
from mmext.utils.io import atomic_file
from mmext.utils.user_error import ConfigError
from ..data_help import DataHelp
from ..streetworld import Drive, Intrinsics, plan
from ..streetworld_dataset import cached_world
from .base import BaseDepthDataset

_KEYS = ('img', 'spike', 'gt_depth_map')
# Raised when the same settings give other samples: old caches are left.
# Those with a gamma had other spikes with some presets before, and cameras
# that start from 0 fired late where light just reaches the threshold.
_FORMAT, _GAMMA_FORMAT, _START_FORMAT = 1, 2, 3


def make_camera(options: Dict[str, Any], seed=0) -> SpikeCamera:
    """A spike camera from the ``camera`` of a data set.

    Args:
        options (dict): Arguments of :class:`mmext.spike.SpikeCamera`, and
            ``preset``, the name of a public simulator.
        seed: Of start and noise; ``options['seed']`` is added.

    Returns:
        SpikeCamera: A fresh camera.
    """
    options = dict(options)
    preset = options.pop('preset', 'ideal')
    own = options.pop('seed', 0)
    return SpikeCamera.from_preset(
        preset, seed=(own, *np.atleast_1d(seed).tolist()), **options)


@register_depth(TRANSFORMS)
class RenderStreetWorldSpikes(BaseTransform):
    """Draw image, spikes and depth of a `StreetWorldDepthDataset` item.

    It stands where ``LoadImageFromFile``, ``LoadSpikeFromFile`` and
    ``LoadDepth`` stand in other pipelines. ``spike_frames`` frames are drawn
    over the time of the ticks, light runs linearly between them, and image
    and depth are those of the middle one.

    Required Keys:

    - streetworld (dict), spike_camera (dict), cache_dir (str, optional)

    Added Keys:

    - img (np.uint8, (H, W, 3), B G R)
    - spike (np.uint8, (T, H, W))
    - gt_depth_map (np.float32, (H, W), metres, 0 in the sky)
    - img_shape, ori_shape, camera_matrix

    Args:
        keys (Sequence[str]): Which of the three arrays to add.
            Defaults to all.

    Example:
        >>> pipeline = [
        ...     dict(type='mmext.RenderStreetWorldSpikes'),
        ...     dict(type='mmext.PackDepthInputs', keys='spike')
        ... ]
    """

    def __init__(self, keys: Sequence[str] = _KEYS) -> None:
        self.keys = as_tuple(keys)
        self._told = False
        if not self.keys or any(key not in _KEYS for key in self.keys):
            raise ConfigError(f'Expected keys to be some of {_KEYS}, but got '
                              f'{keys}.')

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Add the arrays.

        Raises:
            ConfigError: If the item is of another data set.
        """
        if 'spike_camera' not in results:
            raise ConfigError(
                'RenderStreetWorldSpikes needs the items of '
                'mmext.StreetWorldDepthDataset; other data sets start with '
                'LoadImageFromFile and mmext.LoadSpikeFromFile.')
        item, camera = results['streetworld'], results['spike_camera']
        folder = results.get('cache_dir')
        if folder:
            arrays = self._cached(folder, item, camera)
        else:
            arrays = self.draw(item, camera, 'spike' in self.keys)
        for key in self.keys:
            results[key] = arrays[key]
        shape = arrays['gt_depth_map'].shape
        results['img_shape'] = results['ori_shape'] = shape
        results['camera_matrix'] = Intrinsics(
            *item['size'], focal=item['focal']).matrix
        return results

    @staticmethod
    def draw(item: Dict[str, Any],
             camera: Dict[str, Any],
             spikes: bool = True) -> Dict[str, np.ndarray]:
        """Arrays of one sample.

        Args:
            item (dict): town, t, domain, strength, seed, size, focal, drive.
            camera (dict): options, ticks, seconds, frames, gamma.
            spikes (bool): Whether to simulate them. Defaults to True.

        Returns:
            dict[str, np.ndarray]: 'img', 'gt_depth_map' and 'spike'.
        """
        world = cached_world(item['town'], item['size'], item['focal'],
                             item['drive'])
        count = camera['frames'] if spikes else 1
        times = item['t'] + camera['seconds'] * (
            np.linspace(-0.5, 0.5, count) if count > 1 else np.zeros(1))
        frames = list(
            streetworld_frames(world, times, item['domain'], item['strength'],
                               item['seed']))
        middle = frames[count // 2]
        out = dict(img=middle.image, gt_depth_map=middle.depth)
        if spikes:
            light = list(
                light_from_frames(
                    (grey(one.image, camera['gamma']) for one in frames),
                    camera['ticks'] // max(count - 1, 1)))
            # The last frame ends the window, it is not held.
            light = light[:-1] if count > 1 else light
            seed = (item['town'], int(round(item['t'] * 1000)))
            out['spike'] = make_camera(camera['options'], seed).expose(light)
        return out

    def _cached(self, folder: str, item: Dict[str, Any],
                camera: Dict[str, Any]) -> Dict[str, np.ndarray]:
        """Read the sample, or draw and keep it."""
        number = _FORMAT if camera['gamma'] is None else _GAMMA_FORMAT
        device = make_camera(camera['options'])
        if device.precision == 'fixed' and str(device.start) != 'random':
            number = _START_FORMAT
        text = json.dumps([number, item, camera], sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = osp.join(folder, f'{name}.npz')
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
            shape = tuple(arrays.pop('shape'))
            bits = np.unpackbits(arrays.pop('bits'), count=int(np.prod(shape)))
            return dict(arrays, spike=bits.reshape(shape))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            # Not there yet, or damaged: it is drawn anew.
            pass
        arrays = self.draw(item, camera)
        kept = {key: arrays[key] for key in ('img', 'gt_depth_map')}
        try:
            with atomic_file(path) as file:
                np.savez(
                    file,
                    bits=np.packbits(arrays['spike']),
                    shape=arrays['spike'].shape,
                    **kept)
        except OSError as error:  # read-only, or full: not the sample's fault
            if not self._told:
                self._told = True
                print_log(
                    f'Nothing is kept in cache_dir={folder!r}, every sample '
                    f'is drawn anew: {error}',
                    logger='current',
                    level=logging.WARNING)
        return arrays

    def __repr__(self) -> str:
        return f'{type(self).__name__}(keys={self.keys})'


@register_depth(DATASETS)
class StreetWorldDepthDataset(BaseDepthDataset):
    """Street scenes with images, spikes and exact metric depth, no files.

    Start the pipeline with ``mmext.RenderStreetWorldSpikes``. Every domain
    and split has its own towns, ``seed`` gives another set of towns,
    ``size``, ``focal`` and ``drive`` another camera in another car, and
    ``camera`` another spike sensor. Start and noise of the sensor are drawn
    anew for every sample, from its town and time: the same item gives the
    same spikes.

    Args:
        domain (str): 'clear', 'fog', 'night', 'rain', 'snow' or 'dusk'.
            Defaults to 'clear'.
        split (str): 'train' or 'val'. Defaults to 'train'.
        frames (int): How many samples. Defaults to 100.
        per_town (int, optional): Samples in one town. Defaults to None, see
            ``mmext.datasets.streetworld.plan``.
        seed (int): Which world. Defaults to 0.
        strength (float): How bad the weather is. Defaults to 1.
        size (tuple[int, int]): Height and width. Defaults to (96, 160).
        focal (float, optional): Focal length in pixels. Defaults to None,
            0.9 times the width.
        drive (dict, optional): Arguments of
            ``mmext.datasets.streetworld.Drive``. Defaults to None.
        camera (dict, optional): Arguments of
            :class:`mmext.spike.SpikeCamera`, and ``preset``, such as
            ``dict(preset='scsim', gain=0.4)``. Defaults to None,
            ``dict(gain=0.5)``.
        ticks (int): Ticks of a sample. Defaults to 128.
        seconds (float): Time of these ticks. Defaults to 0.0064, 20 kHz.
        spike_frames (int): Frames drawn over that time: 1 for a standing
            scene, or an odd number whose predecessor divides ``ticks``.
            Defaults to 3.
        gamma (float, optional): See :func:`mmext.spike.grey`.
            Defaults to None.
        cache_dir (str, optional): Keep drawn samples in this folder; a
            sample of other settings has another name. Defaults to None.
        **kwargs: See ``mmengine.dataset.BaseDataset``.

    Raises:
        ConfigError: If a setting is unusable.

    Example:
        >>> target = dict(
        ...     type='mmext.StreetWorldDepthDataset',
        ...     domain='fog',
        ...     focal=130.,
        ...     drive=dict(height=1.7),
        ...     camera=dict(preset='scsim', gain=0.4),
        ...     pipeline=[
        ...         dict(type='mmext.RenderStreetWorldSpikes'),
        ...         dict(type='mmext.PackDepthInputs', keys='spike')
        ...     ])
    """
    data_name = 'StreetWorld'
    data_help = DataHelp('none', 'It is drawn on the spot.', '')

    def __init__(self,
                 domain: str = 'clear',
                 split: str = 'train',
                 frames: int = 100,
                 per_town: Optional[int] = None,
                 seed: int = 0,
                 strength: float = 1.,
                 size: Tuple[int, int] = (96, 160),
                 focal: Optional[float] = None,
                 drive: Optional[Dict[str, float]] = None,
                 camera: Optional[Dict[str, Any]] = None,
                 ticks: int = 128,
                 seconds: float = 0.0064,
                 spike_frames: int = 3,
                 gamma: Optional[float] = None,
                 cache_dir: Optional[str] = None,
                 **kwargs) -> None:
        parts = spike_frames - 1
        if spike_frames < 1 or parts % 2 or (parts and ticks % parts):
            raise ConfigError(
                'Expected spike_frames to be 1, or odd with spike_frames - 1 '
                f'dividing the {ticks} ticks, but got {spike_frames}.')
        if ticks < 1 or not seconds > 0:
            raise ConfigError('Expected positive ticks and seconds, but got '
                              f'{ticks} and {seconds}.')
        self.domain, self.split = domain, split
        self.cache_dir = cache_dir
        self._item_options = dict(
            domain=domain,
            strength=float(strength),
            seed=int(seed),
            size=tuple(size),
            focal=focal,
            drive=tuple(sorted((drive or {}).items())))
        options = dict(dict(gain=0.5) if camera is None else camera)
        self._camera = dict(
            options=options,
            ticks=ticks,
            seconds=seconds,
            frames=spike_frames,
            gamma=gamma)
        # Wrong values stop here, not in a worker.
        try:
            Intrinsics(*size, focal=focal)
            Drive(**(drive or {}))
            make_camera(options)
            self._plan = plan(domain, split, frames, per_town, int(seed))
        except (TypeError, ValueError) as error:
            raise ConfigError(f'StreetWorldDepthDataset: {error}') from error
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """One item a sample; nothing is drawn yet.

        Returns:
            list[dict]: Items with ``streetworld`` and ``spike_camera``.
        """
        return [
            dict(
                img_path=f'streetworld/{self.domain}/{self.split}/'
                f'{spec.name}.png',
                domain=self.domain,
                streetworld=dict(
                    town=spec.town, t=spec.t, **self._item_options),
                spike_camera=self._camera,
                cache_dir=self.cache_dir) for spec in self._plan
        ]
