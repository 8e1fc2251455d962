# Copyright (c) mmext contributors. All rights reserved.
"""Read spikes and depth, pack them for a depth estimator."""
import os
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmext.registry import TRANSFORMS, register_depth
from mmext.spike import open_spikes, read_depth_png, read_pfm
from mmext.spike.array_files import read_array
from mmext.spike.depth_files import check_scale
from mmext.spike.options import check_options
from mmext.utils.arguments import is_count
from mmext.utils.user_error import BadFileError, ConfigError, MissingFileError


def check_size(results: Dict[str, Any], shape: Tuple[int, int],
               path: str) -> None:
    """Note the size of a sample's first file, compare that of the others.

    Args:
        results (dict): The sample; ``ori_shape`` is set if it has none.
        shape (tuple[int, int]): Height and width of what was read.
        path (str): From where, for the message.

    Raises:
        BadFileError: If the sizes differ.
    """
    shape = tuple(int(side) for side in shape)
    known = results.setdefault('ori_shape', shape)
    if tuple(known[:2]) != shape:
        raise BadFileError(
            f'Expected {known[0]} x {known[1]} pixels, as the other files of '
            f'the sample have, but {path} has {shape[0]} x {shape[1]}. The '
            'files belong to different images, or one was resized.')


@register_depth(TRANSFORMS)
class LoadSpikeFromFile(BaseTransform):
    """Read the spikes of a sample, (T, H, W) uint8 of 0 and 1.

    Required Keys:

    - spike_path (str): A .dat, .npy or .npz file
    - spike_options (dict, optional): Arguments of
      :func:`~mmext.spike.open_spikes` that suit the data set
    - spike_begin (int, optional): First tick of the sample in a long file

    Added Keys:

    - spike (np.uint8, (length, H, W)), spike_begin
    - img_shape, ori_shape, unless an image set them

    Args:
        length (int): Ticks to read. Defaults to 128.
        begin (int or str): First tick: a number, 'start' or 'center' (the
            middle ``length`` ticks). An item's ``spike_begin`` comes first.
            Defaults to 'start', as the authors read.
        jitter (int): In training, move the first tick by up to so many to
            either side, within the file. Defaults to 0.
        allow_silent (bool): Accept recordings without a single spike.
            Defaults to False.
        **options: Arguments of :func:`~mmext.spike.open_spikes`, such as
            ``size=(250, 400)`` for .dat files; they replace those of the
            data set.

    Raises:
        ConfigError: If an option is unknown, or its value wrong.
        MissingFileError: If there is no such file.
        BadFileError: If it is damaged or too short, has another size than
            the image, or no spike at all.

    Example:
        >>> dict(type='mmext.LoadSpikeFromFile', length=128)
    """

    def __init__(self,
                 length: int = 128,
                 begin: Union[int, str] = 'start',
                 jitter: int = 0,
                 allow_silent: bool = False,
                 **options) -> None:
        if begin not in ('start', 'center') and not is_count(begin, 0):
            raise ConfigError("Expected begin to be a tick, 'start' or "
                              f"'center', but got {begin!r}.")
        if not is_count(length) or not is_count(jitter, 0):
            raise ConfigError(
                'Expected length and jitter to be whole numbers, at least 1 '
                f'and 0, but got {length!r} and {jitter!r}.')
        check_options(options, 'LoadSpikeFromFile')
        self.length, self.begin, self.jitter = length, begin, jitter
        self.allow_silent, self.options = allow_silent, options

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Add ``spike``."""
        if not results.get('spike_path'):
            raise ConfigError(
                'LoadSpikeFromFile needs spike_path, but the data set gave '
                f"{sorted(results)}. Add 'spike' to its modalities.")
        path = results['spike_path']
        recording = open_spikes(
            path, **dict(results.get('spike_options') or {}, **self.options))
        check_size(results, recording.shape[1:], path)
        begin = self._first(results, len(recording))
        spikes = recording.read(begin, self.length)
        self.check(spikes, begin, path)
        results['spike'] = spikes
        results['spike_begin'] = begin
        results.setdefault('img_shape', spikes.shape[1:])
        return results

    def check(self, spikes: np.ndarray, begin: int, where: str) -> None:
        """Refuse a recording without a single spike, unless allowed.

        Args:
            spikes (np.ndarray): (length, H, W).
            begin (int): First tick, for the message.
            where (str): Path or name of the recording, for the message.

        Raises:
            BadFileError: If all values are 0.
        """
        if not self.allow_silent and not spikes.any():
            raise BadFileError(
                f'Expected spikes, but all {spikes.size} values of ticks '
                f'{begin} to {begin + len(spikes) - 1} of {where} are 0: the '
                'recording is dead, or the scene was black. Leave it out, or '
                'set allow_silent=True of LoadSpikeFromFile.')

    def _first(self, results: Dict[str, Any], ticks: int) -> int:
        begin = results.get('spike_begin')
        if begin is None:
            begin = self.begin
        if begin == 'center':
            begin = max(ticks - self.length, 0) // 2
        elif begin == 'start':
            begin = 0
        if self.jitter:
            begin += np.random.randint(-self.jitter, self.jitter + 1)
            begin = int(np.clip(begin, 0, max(ticks - self.length, 0)))
        return begin

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(length={self.length}, '
                f'begin={self.begin!r}, jitter={self.jitter}, '
                f'allow_silent={self.allow_silent}, options={self.options})')


@register_depth(TRANSFORMS)
class LoadDepth(BaseTransform):
    """Read metric depth, (H, W) float32 metres, 0 where there is none.

    16-bit PNG, PFM and .npy files. What is not finite or not positive
    becomes 0. Put it before the crop in training, and after it in testing:
    a prediction is scored at the full size of the image.

    Required Keys:

    - depth_map_path (str)
    - depth_scale (float, optional): Stored value of a metre

    Added Keys:

    - gt_depth_map (np.float32, (H, W))
    - ori_shape, unless something set it

    Args:
        scale (float, optional): Stored value of a metre; replaces that of
            the data set. Defaults to None.

    Raises:
        ConfigError: If the scale is no finite number above 0.
        MissingFileError: If there is no such file.
        BadFileError: If it is damaged, has 8 bits or another size.

    Example:
        >>> dict(type='mmext.LoadDepth', scale=256.)
    """

    def __init__(self, scale: Optional[float] = None) -> None:
        if scale is not None:
            check_scale(scale)
        self.scale = scale

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Add ``gt_depth_map``."""
        path = results.get('depth_map_path')
        if not path:
            raise ConfigError(
                'LoadDepth needs depth_map_path, but the data set gave '
                f"{sorted(results)}. Add 'depth' to its modalities, or leave "
                'LoadDepth out.')
        scale = self.scale or results.get('depth_scale')
        depth = self.read(path, scale)
        check_size(results, depth.shape, path)
        results['gt_depth_map'] = depth
        return results

    @staticmethod
    def read(path: str, scale: Optional[float] = None) -> np.ndarray:
        """Depth of a file.

        Args:
            path (str): A .png, .pfm or .npy file.
            scale (float, optional): Stored value of a metre; needed for
                .png, 1 for the others by default.

        Returns:
            np.ndarray: (H, W) float32 metres, 0 where there is none.
        """
        if scale is not None:
            check_scale(scale)
        suffix = os.path.splitext(path)[1].lower()
        if suffix == '.png':
            if scale is None:
                raise ConfigError(
                    f'{path} does not say what a metre is: set scale of '
                    'LoadDepth (256 for KITTI and DrivingStereo, 100 for '
                    'vKITTI, 1000 for NYU).')
            depth = read_depth_png(path, scale)
        elif suffix == '.pfm':
            depth = read_pfm(path) / np.float32(scale or 1)
        elif suffix == '.npy':
            depth = _read_npy(path) / np.float32(scale or 1)
        else:
            raise ConfigError('Expected depth in a .png, .pfm or .npy file, '
                              f'but got {path}.')
        if depth.ndim != 2:
            raise BadFileError(
                f'Expected depth of shape (H, W) in {path}, but found '
                f'{depth.shape}: a picture of it? Use the metric depth.')
        valid = np.isfinite(depth) & (depth > 0)
        return np.where(valid, depth, np.float32(0)).astype(np.float32)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(scale={self.scale})'


def _read_npy(path: str) -> np.ndarray:
    if not os.path.isfile(path):
        raise MissingFileError(f'Expected a depth file, but there is none at '
                               f'{path}.')
    depth = read_array(path)
    if depth.dtype.kind not in 'fui':
        raise BadFileError(f'Expected numbers in {path}, but found '
                           f'{depth.dtype}.')
    return depth.astype(np.float32)


@register_depth(TRANSFORMS)
class PackDepthInputs(BaseTransform):
    """Pack a sample for :class:`mmext.BiCrossDepthEstimator`.

    Required Keys:

    - img (H, W, 3) and/or spike (T, H, W)
    - gt_depth_map (H, W), optional

    Result:

    - ``inputs``: a tensor, ``(3, H, W)`` of the image in the order of
      channels that the image has (OpenCV's if it was loaded by
      ``LoadImageFromFile``; ``mmext.SpikeDataPreprocessor`` turns it), or
      ``(T, H, W)`` of spikes; with several keys
      ``dict(rgb=..., spike=...)``.
    - ``data_samples``: ``SegDataSample`` with ``gt_depth_map`` (1, H, W) in
      metres and the metainfo.

    Args:
        keys (str or Sequence[str]): 'rgb', 'spike' or both; both for
            training across modalities. Defaults to 'spike'.
        meta_keys (Sequence[str]): Keys for the metainfo, as far as a sample
            has them.

    Example:
        >>> dict(type='mmext.PackDepthInputs', keys=('rgb', 'spike'))
    """

    fields = dict(rgb='img', spike='spike')

    def __init__(
        self,
        keys: Union[str, Sequence[str]] = 'spike',
        meta_keys: Sequence[str] = ('img_path', 'spike_path', 'depth_map_path',
                                    'ori_shape', 'img_shape', 'crop_box',
                                    'flip', 'flip_direction', 'time_reversed',
                                    'spike_begin', 'domain', 'round',
                                    'camera_matrix')
    ) -> None:
        self.single = isinstance(keys, str)
        self.keys = (keys, ) if self.single else tuple(keys)
        unknown = [key for key in self.keys if key not in self.fields]
        if unknown or not self.keys:
            raise ConfigError("Expected keys to be 'rgb', 'spike' or both, "
                              f'but got {keys!r}.')
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Make ``inputs`` and ``data_samples``."""
        inputs = {key: self._tensor(results, key) for key in self.keys}
        sample = SegDataSample()
        if 'gt_depth_map' in results:
            depth = torch.from_numpy(
                np.ascontiguousarray(results['gt_depth_map'], np.float32))
            sample.gt_depth_map = PixelData(data=depth[None])
        meta = {
            key: results[key]
            for key in self.meta_keys if results.get(key) is not None
        }
        sample.set_metainfo(meta)
        return dict(
            inputs=inputs[self.keys[0]] if self.single else inputs,
            data_samples=sample)

    def _tensor(self, results: Dict[str, Any], key: str) -> torch.Tensor:
        field = self.fields[key]
        if field not in results:
            step = 'LoadImageFromFile' if key == 'rgb' else \
                'mmext.LoadSpikeFromFile'
            raise ConfigError(
                f'PackDepthInputs was asked for {key!r}, but the sample has '
                f'no {field!r}. Put {step} before it.')
        array = results[field]
        if key == 'rgb':
            array = array[..., None] if array.ndim == 2 else array
            array = array.transpose(2, 0, 1)
        # a memory map is read-only: only what is left of it is copied
        return torch.from_numpy(np.require(array, requirements='CW'))

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(keys={self.keys}, '
                f'meta_keys={self.meta_keys})')
