# Copyright (c) mmext contributors. All rights reserved.
"""Bodies of distance nets and networks made of them.

A body is what the authors call the ``*Feature`` form: everything before the
class layer. ``D`` below is a distance layer with mean shift and no bias.
"""
import math
from collections import OrderedDict
from typing import Any, Dict, Optional, Sequence, Tuple, Type, Union

import torch.nn as nn
from torch import Tensor

from mmext.utils.arguments import as_switch, is_count, is_number
from mmext.utils.user_error import ConfigError
from .bound_heads import BoundMLP, DistanceHead
from .bounds import (BoundConstantPad2d, BoundFlatten, BoundMaxPool2d, Bounds,
                     Value)
from .sort_layers import distance_conv2d, distance_linear


class DistanceBody(nn.Module):
    """Base of the bodies; adds layers and keeps count of the shape.

    Args:
        input_size (Sequence[int]): (C, H, W) of the images, before padding.
        p (float): Exponent to start with. Defaults to 8.
        identity (float | None): As in :class:`LpDistLinear`. Defaults to 10.
        sort (dict, optional): Options ``rho``, ``truncate``, ``sub_batch`` to
            use SortNet neurons. Defaults to None, distance neurons.
        sync_mean (bool): Mean shift over all processes. Defaults to False.
        momentum (float): Momentum of mean shift. Defaults to 0.1.
        input_pad (int | Sequence[int]): Constant border that the network puts
            around its input, one width or (left, right, top, bottom).
            Defaults to 0.
        input_pad_value (float): What the border holds, in normalised units;
            black is ``-mean / std``. Defaults to 0, the mean.

    Raises:
        ConfigError: If the images are too small for the layers, or
            sync_mean is no switch.
    """

    def __init__(self,
                 input_size: Sequence[int],
                 p: float = 8.,
                 identity: Optional[float] = 10.,
                 sort: Optional[dict] = None,
                 sync_mean: bool = False,
                 momentum: float = 0.1,
                 input_pad: Union[int, Sequence[int]] = 0,
                 input_pad_value: float = 0.) -> None:
        super().__init__()
        self.input_size = _triple(input_size)
        self._options = dict(
            p=p,
            identity=identity,
            mean_shift=dict(
                momentum=momentum, sync=as_switch('sync_mean', sync_mean)))
        self._sort = sort
        self._shape: Tuple[int, ...] = self.input_size
        self.layers = nn.Sequential(OrderedDict())
        if input_pad:
            pad = BoundConstantPad2d(input_pad, input_pad_value)
            self.layers.add_module('pad', pad)
            left, right, top, bottom = pad.padding
            channels, height, width = self._shape
            self._shape = (channels, height + top + bottom,
                           width + left + right)
        self.build_layers()
        self.out_features = self._shape[0]

    def build_layers(self) -> None:
        """Add the layers with :meth:`conv`, :meth:`pool` and so on."""
        raise NotImplementedError

    def _resize(self, name: str, channels: int, kernel: int, stride: int,
                padding: int) -> None:
        height, width = [(n + 2 * padding - kernel) // stride + 1
                         for n in self._shape[1:]]
        if height < 1 or width < 1:
            raise ConfigError(
                f'{type(self).__name__} shrinks images of '
                f'{self.input_size[1]}x{self.input_size[2]} to nothing: its '
                f'layer {name} ({kernel}x{kernel}, stride {stride}, padding '
                f'{padding}) gets a map of {self._shape[1]}x{self._shape[2]}.'
                ' Use larger images, set input_pad, or take a network with '
                'fewer stages (LeNet, Conv, MLP).')
        self._shape = (channels, height, width)

    def conv(self,
             name: str,
             channels: int,
             kernel: int,
             stride: int = 1,
             padding: int = 0) -> None:
        """Add a distance convolution with mean shift."""
        inputs = self._shape[0]
        self._resize(name, channels, kernel, stride, padding)
        self.layers.add_module(
            name,
            distance_conv2d(
                self._sort,
                inputs,
                channels,
                kernel,
                stride=stride,
                padding=padding,
                **self._options))

    def pool(self, name: str, kernel: int, stride: int = 2) -> None:
        """Add a max pooling."""
        self._resize(name, self._shape[0], kernel, stride, 0)
        self.layers.add_module(name, BoundMaxPool2d(kernel, stride))

    def flatten(self) -> None:
        """Add the step from images to vectors."""
        self.layers.add_module('flatten', BoundFlatten())
        self._shape = (math.prod(self._shape), )

    def dense(self, name: str, features: int) -> None:
        """Add a distance layer with mean shift."""
        self.layers.add_module(
            name,
            distance_linear(self._sort, self._shape[0], features,
                            **self._options))
        self._shape = (features, )

    def forward(self, x: Value) -> Value:
        """Features of images or boxes of images.

        Args:
            x (Tensor | Bounds): Normalised, (B, *input_size).

        Returns:
            Tensor | Bounds: (B, out_features).

        Raises:
            ConfigError: If the images have another size.
        """
        if tuple(x.shape[1:]) != self.input_size:
            raise ConfigError(
                f'{type(self).__name__} was built for images of (C, H, W) = '
                f'{self.input_size}, but got {tuple(x.shape[1:])}. Set '
                'input_size (or in_channels and img_size) to the size that '
                'the test pipeline delivers; pad smaller images with '
                'input_pad, do not resize them, as that changes what a pixel '
                'radius means.')
        return self.layers(x)


def _triple(input_size: Sequence[int]) -> Tuple[int, int, int]:
    size = tuple(input_size)
    if len(size) != 3 or any(not isinstance(n, int) or n < 1 for n in size):
        raise ConfigError(
            'input_size is (channels, height, width), each at least 1, but '
            f'got {input_size!r}.')
    return size


def _units(width: float, unit: int, what: str) -> int:
    count = round(width * unit) if is_number(width) else 0
    if count < 1:
        raise ConfigError(f'{what} counts in units of {unit} and must come to '
                          f'at least 1, but got {width!r} x {unit}.')
    return count


def _count(what: str, value: int) -> int:
    if not is_count(value):
        raise ConfigError(f'{what} is a whole number, at least 1, but got '
                          f'{value!r}.')
    return value


class MLPFeature(DistanceBody):
    """Flatten, then ``depth`` x D(1024 * width).

    Args:
        input_size (Sequence[int]): (C, H, W). Defaults to (1, 28, 28).
        depth (int): Layers. Defaults to 4.
        width (float): Units of 1024; 0.25 for 256. Defaults to 5.
        **kwargs: Options of :class:`DistanceBody`.

    Config example: ``backbone=dict(type='mmext.LipMLP', depth=4, width=5)``.
    """

    def __init__(self,
                 input_size: Sequence[int] = (1, 28, 28),
                 depth: int = 4,
                 width: float = 5.,
                 **kwargs: Any) -> None:
        self._depth = _count('depth', depth)
        self._width = _units(width, 1024, 'width')
        super().__init__(input_size, **kwargs)

    def build_layers(self) -> None:
        """Flatten and dense layers."""
        self.flatten()
        for i in range(self._depth):
            self.dense(f'fc{i + 1}', self._width)


class ConvFeature(DistanceBody):
    """Five 3x3 distance convolutions and one D(hidden).

    With c = 32 * width: c, c, then 2c with stride 2, 2c, 2c.

    Args:
        input_size (Sequence[int]): (C, H, W). Defaults to (3, 32, 32).
        width (float): Units of 32 channels. Defaults to 3.
        hidden (int): Features. Defaults to 512.
        **kwargs: Options of :class:`DistanceBody`.

    Config example: ``backbone=dict(type='mmext.LipConv', width=3,
    hidden=1024)``.
    """

    def __init__(self,
                 input_size: Sequence[int] = (3, 32, 32),
                 width: float = 3.,
                 hidden: int = 512,
                 **kwargs: Any) -> None:
        self._width = _units(width, 32, 'width')
        self._hidden = _count('hidden', hidden)
        super().__init__(input_size, **kwargs)

    def build_layers(self) -> None:
        """Convolutions, flatten, dense."""
        narrow, wide = self._width, 2 * self._width
        self.conv('conv1', narrow, 3, padding=1)
        self.conv('conv2', narrow, 3, padding=1)
        self.conv('conv3', wide, 3, stride=2, padding=1)
        self.conv('conv4', wide, 3, padding=1)
        self.conv('conv5', wide, 3, padding=1)
        self.flatten()
        self.dense('fc1', self._hidden)


class _HiddenBody(DistanceBody):
    """A body of fixed stages whose last layer has ``hidden`` units."""

    def __init__(self,
                 input_size: Sequence[int] = (3, 32, 32),
                 hidden: int = 512,
                 **kwargs: Any) -> None:
        self._hidden = _count('hidden', hidden)
        super().__init__(input_size, **kwargs)


class LeNetFeature(_HiddenBody):
    """D 5x5 6, max pool, D 5x5 16, max pool, D(120), D(hidden).

    Args:
        input_size (Sequence[int]): (C, H, W). Defaults to (3, 32, 32); with
            (1, 28, 28) and ``input_pad=2`` it has the published shape.
        hidden (int): Features. Defaults to 512.
        **kwargs: Options of :class:`DistanceBody`.

    Config example: ``backbone=dict(type='mmext.LipLeNet', hidden=1024)``.
    """

    def build_layers(self) -> None:
        """Two stages, flatten, two dense layers."""
        self.conv('conv1', 6, 5)
        self.pool('pool1', 2)
        self.conv('conv2', 16, 5)
        self.pool('pool2', 2)
        self.flatten()
        self.dense('fc1', 120)
        self.dense('fc2', self._hidden)


class AlexNetFeature(_HiddenBody):
    """Five distance convolutions, D(1024), D(hidden).

    Args:
        input_size (Sequence[int]): (C, H, W). Defaults to (3, 32, 32).
        hidden (int): Features. Defaults to 512.
        **kwargs: Options of :class:`DistanceBody`.

    Config example: ``backbone=dict(type='mmext.LipAlexNet', hidden=1024)``.
    """

    def build_layers(self) -> None:
        """Convolutions with two poolings, flatten, two dense layers."""
        self.conv('conv1', 96, 7, stride=2, padding=2)
        self.pool('pool1', 3)
        self.conv('conv2', 256, 5, padding=2)
        self.pool('pool2', 3)
        self.conv('conv3', 384, 3, padding=1)
        self.conv('conv4', 384, 3, padding=1)
        self.conv('conv5', 256, 3, padding=1)
        self.flatten()
        self.dense('fc1', 1024)
        self.dense('fc2', self._hidden)


class VGGFeature(_HiddenBody):
    """21 distance convolutions 3x3 in five stages, D(256), D(hidden).

    Stages of 3 x 64, 3 x 128, 5 x 256, 5 x 512, 5 x 512, a max pool after
    each of the first four.

    Args:
        input_size (Sequence[int]): (C, H, W). Defaults to (3, 32, 32).
        hidden (int): Features. Defaults to 512.
        **kwargs: Options of :class:`DistanceBody`.

    Config example: ``backbone=dict(type='mmext.LipVGG', hidden=1024)``.
    """

    stages = ((3, 64), (3, 128), (5, 256), (5, 512), (5, 512))

    def build_layers(self) -> None:
        """Stages, flatten, two dense layers."""
        for s, (count, channels) in enumerate(self.stages, 1):
            for i in range(1, count + 1):
                self.conv(f'conv{s}_{i}', channels, 3, padding=1)
            if s < len(self.stages):
                self.pool(f'pool{s}', 2)
        self.flatten()
        self.dense('fc1', 256)
        self.dense('fc2', self._hidden)


BODIES: Dict[str, Type[DistanceBody]] = dict(
    mlp=MLPFeature,
    conv=ConvFeature,
    lenet=LeNetFeature,
    alexnet=AlexNetFeature,
    vgg=VGGFeature)


class DistanceNet(nn.Module):
    """A body and a head, without any host toolbox.

    Args:
        body (nn.Module): Images to features, with ``out_features``.
        head (DistanceHead | BoundMLP): Features to logits.

    Config example: none; configs name ``mmext.LipschitzClassifier``.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Value) -> Value:
        """Images to logits, or boxes to bounds of the logits."""
        return self.head(self.body(x))

    def residual(self, box: Bounds, labels: Tensor) -> Tensor:
        """Interval residual over boxes of images, (B, num_classes)."""
        return self.head.residual(self.body(box.box), labels)

    def lipschitz_residual(self, x: Tensor, labels: Tensor,
                           eps: Union[float, Tensor]) -> Tensor:
        """Residual from the Lipschitz constant of the features."""
        return self.head.lipschitz_residual(self.body(x), labels, eps)


def build_network(arch: str,
                  num_classes: int,
                  head_hidden: Optional[int] = None,
                  **kwargs: Any) -> DistanceNet:
    """A whole network by the authors' names.

    Args:
        arch (str): 'mlp', 'conv', 'lenet', 'alexnet' or 'vgg'. ``depth`` of
            'mlp' counts the class layer unless there is a "++" head, as in
            MLP(depth, width) and MLPFeature(depth, width).
        num_classes (int): Classes.
        head_hidden (int, optional): Units of the "++" head; None for a class
            layer of distance neurons. Defaults to None.
        **kwargs: Of the body.

    Returns:
        DistanceNet: For example ``build_network('mlp', 10, depth=5, width=5)``
        is MLP(5, 5) with 82,708,490 parameters.

    Raises:
        ConfigError: For an unknown ``arch``.
    """
    if arch not in BODIES:
        raise ConfigError(
            f'arch is one of {sorted(BODIES)}, but got {arch!r}.')
    if head_hidden is not None:
        body = BODIES[arch](**kwargs)
        return DistanceNet(
            body, BoundMLP(body.out_features, head_hidden, num_classes))
    if 'depth' in kwargs:
        kwargs['depth'] -= 1
    body = BODIES[arch](**kwargs)
    shared = {k: kwargs[k] for k in ('p', 'sort', 'identity') if k in kwargs}
    shared.setdefault('p', 8.)
    return DistanceNet(body,
                       DistanceHead(body.out_features, num_classes, **shared))
