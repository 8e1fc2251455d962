# Copyright (c) mmext contributors. All rights reserved.
"""l-infinity-distance networks as mmpretrain backbones."""
import inspect
import logging
import math
from typing import Any, Iterable, Optional, Sequence, Tuple, Type, Union

import torch
from mmengine.logging import print_log
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor

from mmext.registry import MODELS
from mmext.utils.arguments import check_names
from mmext.utils.user_error import ConfigError
from ..lipschitz.bounds import Bounds
from ..lipschitz.networks import (AlexNetFeature, ConvFeature, DistanceBody,
                                  LeNetFeature, MLPFeature, VGGFeature)
from ..lipschitz.p_norm import distance_modules


def check_options(body: Type[DistanceBody], options: Iterable[str]) -> None:
    """Refuse options that a body does not take.

    Args:
        body (type[DistanceBody]): Its class, whose options are those of all
            its bases.
        options (Iterable[str]): Their names.

    Raises:
        ConfigError: With the options that there are.
    """
    known = {
        name
        for kind in body.__mro__ if issubclass(kind, DistanceBody)
        for name in inspect.signature(kind.__init__).parameters
    } - {'self', 'input_size', 'kwargs'}
    check_names(options, sorted(known), body.__name__)


class LipBackbone(BaseBackbone):
    r"""Base of backbones made of l_p-distance neurons.

    Every layer computes :math:`y_o = \lVert x - w_o \rVert_p` and subtracts
    its mean over the batch (in evaluation: a running mean). At p = inf each
    feature is 1-Lipschitz for l-infinity in the normalised image; a finite p
    is a relaxation for training, and
    :class:`~mmext.engine.hooks.PNormScheduleHook` raises it. The stages are
    those of the paper without its class layer, which is in the head.

    It takes images, and also boxes of images
    (:class:`~mmext.models.lipschitz.bounds.Bounds`), to which it gives the
    boxes of the features.

    Args:
        in_channels (int): Channels of the images. Defaults to 3.
        img_size (int | tuple[int, int]): Height and width of the images,
            before ``input_pad``. Other sizes are refused in the forward
            pass: pad small images, do not resize them, which would change
            what a pixel radius means. Defaults to 32.
        p (float): Exponent that training starts with. Defaults to 8.
        identity (float, optional): Size of the weight by which a layer
            starts close to a copy; None switches it off. Defaults to 10.
        sort (dict, optional): Options of SortNet neurons, such as
            ``dict(rho=0.85)``, instead of distance neurons.
            Defaults to None.
        sync_mean (bool): Share the mean of mean shift among the processes of
            a distributed training, as one process would compute it.
            Defaults to False.
        momentum (float): Of the running means. Defaults to 0.1.
        input_pad (int | Sequence[int]): A constant border around the images,
            one width or (left, right, top, bottom). Defaults to 0.
        input_pad_value (float): What it holds, in normalised units; black is
            ``-mean / std``. Defaults to 0.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        ConfigError: If the images are too small for the layers, or an option
            has another type or name.
    """

    body_type: Type[DistanceBody]

    def __init__(self,
                 in_channels: int = 3,
                 img_size: Union[int, Sequence[int]] = 32,
                 init_cfg: Optional[dict] = None,
                 **kwargs: Any) -> None:
        super().__init__(init_cfg)
        self._warned = False
        size = (img_size, img_size) if isinstance(img_size, int) else \
            tuple(img_size)
        if len(size) != 2:
            raise ConfigError('img_size is one number or (height, width), but '
                              f'got {img_size!r}.')
        check_options(self.body_type, kwargs)
        self.body = self.body_type(input_size=(in_channels, *size), **kwargs)
        # found once: a walk through the modules at every forward pass costs
        self._distances = tuple(distance_modules(self.body))

    @property
    def out_features(self) -> int:
        """int: Length of the features, the head's ``in_channels``."""
        return self.body.out_features

    @property
    def input_size(self) -> Tuple[int, int, int]:
        """tuple: Channels, height and width of the images."""
        return self.body.input_size

    def forward(self, x: Union[Tensor,
                               Bounds]) -> Tuple[Union[Tensor, Bounds], ...]:
        """Features of normalised images, or boxes of them.

        Args:
            x (Tensor | Bounds): Shape (B, C, H, W).

        Returns:
            tuple[Tensor | Bounds]: One item of shape (B, out_features).

        Raises:
            ConfigError: If the images have another size than configured.
            CertificationError: For a box at finite p or in train mode.
        """
        if not (self._warned or self.training or torch.is_grad_enabled()):
            self._warn_finite_p()
        return (self.body(x), )

    def _warn_finite_p(self) -> None:
        """Say once that another network than the trained one runs."""
        p = min(layer.p for layer in self._distances)
        if p == math.inf:
            return
        self._warned = True
        print_log(
            f'{type(self).__name__} is evaluated at p = {p:g}, but a network '
            'whose schedule has ended is one of p = inf, and p is not in its '
            'checkpoint. Keep PNormScheduleHook in the config, call '
            "mmext.models.lipschitz.p_norm.set_p(model, float('inf')), or "
            "build the model with backbone.p=float('inf') (and head.p).",
            logger='current',
            level=logging.WARNING)


@MODELS.register_module()
class LipMLP(LipBackbone):
    """Distance layers on the flattened image.

    Args:
        depth (int): Distance layers, without the class layer: the published
            MLP(5, 5) is ``depth=4`` and a ``LipClsHead``, MLPFeature(4, 5)
            is ``depth=4`` and a ``BoundMLPHead``. Defaults to 4.
        width (float): Units of 1024 neurons. Defaults to 5.
        **kwargs: See :class:`LipBackbone`.

    Examples:
        >>> backbone = dict(
        ...     type='mmext.LipMLP', in_channels=1, img_size=28, depth=4,
        ...     width=5)  # 5120 features
    """

    body_type = MLPFeature


@MODELS.register_module()
class LipConv(LipBackbone):
    """Five 3x3 distance convolutions and one dense layer.

    Args:
        width (float): Units of 32 channels. Defaults to 3.
        hidden (int): Features. Defaults to 512.
        **kwargs: See :class:`LipBackbone`.

    Examples:
        >>> backbone = dict(type='mmext.LipConv', width=3, hidden=1024)
    """

    body_type = ConvFeature


@MODELS.register_module()
class LipLeNet(LipBackbone):
    """LeNet of distance layers: two 5x5 stages with pooling, two dense.

    Args:
        hidden (int): Features. Defaults to 512.
        **kwargs: See :class:`LipBackbone`.

    Examples:
        >>> cifar = dict(type='mmext.LipLeNet', hidden=1024)
        >>> mnist = dict(
        ...     type='mmext.LipLeNet', in_channels=1, img_size=28,
        ...     input_pad=2, input_pad_value=-0.1307 / 0.3081)
    """

    body_type = LeNetFeature


@MODELS.register_module()
class LipAlexNet(LipBackbone):
    """AlexNet of distance layers, for small images.

    Args:
        hidden (int): Features. Defaults to 512.
        **kwargs: See :class:`LipBackbone`.

    Examples:
        >>> backbone = dict(type='mmext.LipAlexNet', hidden=1024)
    """

    body_type = AlexNetFeature


@MODELS.register_module()
class LipVGG(LipBackbone):
    """21 distance convolutions of 3x3 in five stages, and two dense layers.

    Args:
        hidden (int): Features. Defaults to 512.
        **kwargs: See :class:`LipBackbone`.

    Examples:
        >>> backbone = dict(type='mmext.LipVGG', hidden=1024)
    """

    body_type = VGGFeature
