# Copyright (c) mmext contributors. All rights reserved.
"""Batches of images and spikes for depth networks."""
import logging
from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseDataPreprocessor
from torch import Tensor

from mmext.registry import MODELS, register_depth
from mmext.spike import resize_spikes
from mmext.spike.arrays import frame_size
from mmext.utils.user_error import ConfigError


@register_depth(MODELS)
class SpikeDataPreprocessor(BaseDataPreprocessor):
    """Normalise images, sign spikes, resize both to the network's input.

    - Images (3 channels, 0 to 255): to RGB, ``x / 255``, bilinear resize
      without anti-aliasing, ``(x - mean) / std``.
    - Spikes of 0 and 1 (uint8 or bool, any other number of channels):
      resize to the nearest old pixel (``floor(i H / h)``), then ``2 S - 1``,
      -1 and +1 exactly. Signed spikes (any other kind) are resized only.

    All comes out as float32. Depth is not touched: predictions are resized
    to it. ``inputs`` may be a tensor, a list of tensors, or a mapping of
    these, nested too: ``dict(rgb=..., spike=...)`` of paired samples,
    ``dict(source=..., target=...)`` of :class:`mmext.SourceTargetDataset`.

    Args:
        size (tuple[int, int], optional): Height and width of the network's
            input. Defaults to None: as they come.
        mean (float or Sequence[float]): Of images from 0 to 1.
            Defaults to 0.5.
        std (float or Sequence[float]): The same. Defaults to 0.5.
        normalize_rgb (bool): False leaves images from 0 to 1, as the authors
            do for Respike. Defaults to True.
        bgr_to_rgb (bool): Images come in OpenCV's order of channels.
            Defaults to True.
        antialias (bool): Resize images with anti-aliasing, as current
            torchvision does by default. Defaults to False.
        non_blocking (bool): See mmengine. Defaults to False.

    Whether an input is an image or spikes is told by its channels, so grey
    images must be loaded as colour.

    Raises:
        ConfigError: If samples of a batch have different sizes and there is
            no ``size``, or the first channel of uint8 inputs of other than
            3 channels holds more than 0 and 1.

    Example:
        >>> data_preprocessor = dict(
        ...     type='mmext.SpikeDataPreprocessor', size=(384, 384))
    """

    def __init__(self,
                 size: Optional[Tuple[int, int]] = None,
                 mean: Union[float, Sequence[float]] = 0.5,
                 std: Union[float, Sequence[float]] = 0.5,
                 normalize_rgb: bool = True,
                 bgr_to_rgb: bool = True,
                 antialias: bool = False,
                 non_blocking: bool = False) -> None:
        super().__init__(non_blocking=non_blocking)
        self.size = None if size is None else frame_size(size)
        self.normalize_rgb, self.bgr_to_rgb = normalize_rgb, bgr_to_rgb
        self.antialias = antialias
        self._told = False
        for name, value in (('mean', mean), ('std', std)):
            value = torch.as_tensor(value, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data (dict): ``inputs`` and, optionally, ``data_samples``.
            training (bool): Unused: training and testing are alike.
                Defaults to False.

        Returns:
            dict: ``inputs`` as float32 (B, C, h, w), or a mapping of such;
            ``data_samples`` with the new ``img_shape``.
        """
        self._check(data['inputs'])  # on the CPU still: nobody waits
        data = self.cast_data(data)
        inputs = self._prepare(data['inputs'])
        samples = data.get('data_samples')
        self._note_size(inputs, samples)
        return dict(inputs=inputs, data_samples=samples)

    def _check(self, inputs: Any) -> None:
        """Refuse grey images, which have the channels of spikes."""
        if not isinstance(inputs, Tensor):
            for one in inputs.values() if isinstance(inputs, Mapping) \
                    else inputs:
                self._check(one)
            return
        channels = inputs.shape[-3]
        if channels == 3:
            self._check_image(inputs)
            return
        # The first channel tells; reading all would cost as much as a copy.
        first = inputs.select(-3, 0)
        if inputs.dtype == torch.uint8 and first.numel() and first.max() > 1:
            raise ConfigError(
                'Expected an image of 3 channels, or spikes of 0 and 1, but '
                f'got uint8 of {channels} channel(s) with values up to '
                f'{int(first.max())}, which looks like a grey image. Load '
                "images as colour (color_type='color' of LoadImageFromFile), "
                'and spikes with mmext.LoadSpikeFromFile.')

    def _check_image(self, image: Tensor) -> None:
        if self._told or not image.numel() or not 0 < image.max() <= 1:
            return  # all black says nothing
        self._told = True
        print_log(
            'An image of 3 channels has no value above '
            f'{float(image.max()):g}, but SpikeDataPreprocessor expects 0 to '
            '255 and divides by 255: the network sees it as black. Leave '
            'scaling and normalisation out of the pipeline; spikes of three '
            'moments cannot be told from images. This is said once.',
            logger='current',
            level=logging.WARNING)

    def _prepare(self, inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return {key: self._prepare(one) for key, one in inputs.items()}
        if isinstance(inputs, Tensor):
            return self._convert(inputs if inputs.dim() == 4 else inputs[None])
        if len({(tuple(one.shape), one.dtype) for one in inputs}) == 1:
            return self._convert(torch.stack(list(inputs)))
        if self.size is None:
            raise ConfigError(
                'Expected inputs of one size in a batch, but got '
                f'{[tuple(one.shape) for one in inputs]}. Set size of '
                'SpikeDataPreprocessor, or use batch_size=1.')
        return torch.cat([self._convert(one[None]) for one in inputs])

    def _convert(self, x: Tensor) -> Tensor:
        return self._image(x) if x.shape[1] == 3 else self._spikes(x)

    def _image(self, x: Tensor) -> Tensor:
        if self.bgr_to_rgb:
            x = x.flip(1)
        x = x.float() / 255
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(
                x,
                self.size,
                mode='bilinear',
                align_corners=False,
                antialias=self.antialias)
        return (x - self.mean) / self.std if self.normalize_rgb else x

    def _spikes(self, x: Tensor) -> Tensor:
        if self.size is not None:
            x = resize_spikes(x, self.size)
        binary = x.dtype in (torch.uint8, torch.bool)
        x = x.float()
        return x.mul_(2).sub_(1) if binary else x

    def _note_size(self, inputs: Any, samples: Any) -> None:
        """Put the size of the network's input into the metainfo."""
        if isinstance(samples, Mapping):
            for key, part in samples.items():
                of = inputs[key] if isinstance(inputs, Mapping) else inputs
                self._note_size(of, part)
            return
        while isinstance(inputs, Mapping):
            inputs = next(iter(inputs.values()))
        rest: List = list(samples or [])
        for sample in rest:
            sample.set_metainfo(dict(img_shape=tuple(inputs.shape[2:])))
