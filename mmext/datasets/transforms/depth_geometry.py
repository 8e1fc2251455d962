# Copyright (c) mmext contributors. All rights reserved.
"""Crops, sizes and views of RGB, spikes and depth, all alike."""
from typing import Any, Dict, Iterator, Tuple

import numpy as np
from mmcv.transforms import BaseTransform

from mmext.registry import TRANSFORMS, register_depth
from mmext.spike import resize_spikes, strong_view, to_signed
from mmext.spike.arrays import frame_size
from mmext.spike.augment import check_view
from mmext.utils.arguments import is_share
from mmext.utils.user_error import BadFileError, ConfigError

# Key -> axis of the rows; columns follow.
_MAPS = dict(img=0, spike=1, gt_depth_map=0)


def _maps(results: Dict[str, Any]) -> Iterator[Tuple[str, np.ndarray, int]]:
    """Arrays of a sample, with the axis of their rows."""
    for key, axis in _MAPS.items():
        if results.get(key) is not None:
            yield key, results[key], axis


def _check_prob(prob: Any, where: str) -> None:
    if not is_share(prob):
        raise ConfigError(f'Expected prob of {where} to be a probability, a '
                          f'number from 0 to 1, but got {prob!r}.')


@register_depth(TRANSFORMS)
class KBCrop(BaseTransform):
    """Crop the bottom middle, the usual crop of KITTI (KB crop).

    Rows ``[H - h, H)`` and columns ``[int((W - w) / 2), + w)`` of whatever
    was loaded before: image, spikes and depth. In testing load depth after
    it, so that it keeps its size; the prediction is pasted back into the
    full size by ``crop_box``.

    Required Keys:

    - img, spike and/or gt_depth_map

    Modified Keys:

    - the arrays, img_shape

    Added Keys:

    - crop_box (tuple): top, left, height and width

    Args:
        size (tuple[int, int]): Height ``h`` and width ``w``. Defaults to
            (352, 1216) for KITTI and vKITTI; DrivingStereo has (384, 864).

    Raises:
        BadFileError: If an image is smaller.

    Example:
        >>> pipeline = [
        ...     dict(type='mmext.LoadSpikeFromFile'),
        ...     dict(type='mmext.KBCrop', size=(352, 1216)),
        ...     dict(type='mmext.LoadDepth'),  # testing: the full size
        ...     dict(type='mmext.PackDepthInputs')
        ... ]
    """

    def __init__(self, size: Tuple[int, int] = (352, 1216)) -> None:
        self.size = frame_size(size)

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Crop."""
        if results.get('crop_box') is not None:
            raise ConfigError('The sample was cropped before: leave one '
                              'KBCrop in the pipeline.')
        height, width = self.size
        for key, array, axis in _maps(results):
            rows, columns = array.shape[axis:axis + 2]
            if rows < height or columns < width:
                raise BadFileError(
                    f'KBCrop cuts {height} x {width} pixels, but {key} of '
                    f'{results.get("img_path") or results.get("spike_path")} '
                    f'has {rows} x {columns}. Set size of KBCrop for this '
                    'data set, or leave it out.')
            top, left = rows - height, int((columns - width) / 2)
            cut = (slice(None), ) * axis + (slice(
                top, None), slice(left, left + width))
            results[key] = array[cut]
            results['crop_box'] = (top, left, height, width)
        if results.get('crop_box') is None:
            raise ConfigError('KBCrop found neither img nor spike nor '
                              'gt_depth_map. Load something before it.')
        results['img_shape'] = self.size
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


@register_depth(TRANSFORMS)
class ResizeSpike(BaseTransform):
    """Resize the spikes to the nearest pixel, row ``floor(i H / h)``.

    In the loader's workers it makes samples of large cameras small before
    they travel to the device; ``mmext.SpikeDataPreprocessor`` with the same
    size gives the same. Image and depth keep their size: the preprocessor
    resizes the image, and predictions are resized to the depth.

    Required Keys:

    - spike

    Modified Keys:

    - spike, img_shape

    Args:
        size (tuple[int, int]): Height and width of the network's input.

    Example:
        >>> dict(type='mmext.ResizeSpike', size=(384, 384))
    """

    def __init__(self, size: Tuple[int, int]) -> None:
        self.size = frame_size(size)

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Resize."""
        results['spike'] = resize_spikes(results['spike'], self.size)
        results['img_shape'] = self.size
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size})'


@register_depth(TRANSFORMS)
class SpikeToSigned(BaseTransform):
    """``2 S - 1``: spikes of -1 and +1, int8.

    ``mmext.SpikeDataPreprocessor`` does it for cubes of 0 and 1, which are
    what should travel; this is for pipelines that need signed cubes before.

    Required Keys:

    - spike (np.uint8)

    Modified Keys:

    - spike (np.int8)
    """

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Map to -1 and +1; a signed cube is an error."""
        spikes = results['spike']
        if spikes.dtype.kind not in 'bu':
            raise ConfigError(
                f'Expected spikes of 0 and 1 as uint8, but got {spikes.dtype}'
                ': they are signed already. Leave one SpikeToSigned in the '
                'pipeline.')
        results['spike'] = to_signed(spikes, np.int8)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@register_depth(TRANSFORMS)
class SpikeStrongAug(BaseTransform):
    """The strong view of :func:`~mmext.spike.strong_view`.

    Required Keys:

    - spike

    Modified Keys:

    - spike

    Args:
        prob (float): Probability of the view. Defaults to 1.
        **options: Arguments of :func:`~mmext.spike.strong_view`.

    Example:
        >>> dict(type='mmext.SpikeStrongAug', silence=0.1, chunk=16)
    """

    def __init__(self, prob: float = 1., **options) -> None:
        _check_prob(prob, 'SpikeStrongAug')
        self.prob, self.options = prob, options
        # A misspelt or impossible option stops here, not in a worker.
        check_view(options, 'SpikeStrongAug')

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Replace the spikes by their strong view."""
        if np.random.random_sample() < self.prob:
            results['spike'] = strong_view(results['spike'], np.random,
                                           **self.options)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, {self.options})'


@register_depth(TRANSFORMS)
class RandomDepthFlip(BaseTransform):
    """Mirror image, spikes and depth together.

    Required Keys:

    - img, spike and/or gt_depth_map

    Added Keys:

    - flip (bool), flip_direction (str)

    Args:
        prob (float): Probability. Defaults to 0.5.
        direction (str): 'horizontal' or 'vertical'.
            Defaults to 'horizontal'.

    Example:
        >>> dict(type='mmext.RandomDepthFlip', prob=0.5)
    """

    def __init__(self,
                 prob: float = 0.5,
                 direction: str = 'horizontal') -> None:
        if direction not in ('horizontal', 'vertical'):
            raise ConfigError(
                "Expected a direction of 'horizontal' or 'vertical', but got "
                f'{direction!r}.')
        _check_prob(prob, 'RandomDepthFlip')
        self.prob, self.direction = prob, direction

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Flip, or not."""
        flip = bool(np.random.random_sample() < self.prob)
        results['flip'] = flip
        results['flip_direction'] = self.direction if flip else None
        if flip:
            # Slices: cv2.flip has a limit of channels.
            step = int(self.direction == 'horizontal')
            for key, array, axis in _maps(results):
                results[key] = np.flip(array, axis + step)
        return results

    def __repr__(self) -> str:
        return (f'{type(self).__name__}(prob={self.prob}, '
                f'direction={self.direction!r})')


@register_depth(TRANSFORMS)
class RandomTimeReversal(BaseTransform):
    """Play the spikes backwards.

    Image and depth stay: they belong to the middle of the ticks. Not for
    windows that begin at the labelled frame.

    Required Keys:

    - spike

    Added Keys:

    - time_reversed (bool)

    Args:
        prob (float): Probability. Defaults to 0.5.
    """

    def __init__(self, prob: float = 0.5) -> None:
        _check_prob(prob, 'RandomTimeReversal')
        self.prob = prob

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Reverse, or not."""
        reverse = bool(np.random.random_sample() < self.prob)
        results['time_reversed'] = reverse
        if reverse:
            results['spike'] = results['spike'][::-1]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'
