# Copyright (c) mmext contributors. All rights reserved.
"""An image classifier whose predictions carry certificates."""
from typing import Any, List, Optional, Tuple

import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor

from mmext.registry import MODELS
from mmext.utils.user_error import ConfigError
from ..lipschitz.certifier import Certifier
from .certification import CertifiedPredictions, normalisation
from .certify_options import CertifyOptions
from .lip_backbones import LipBackbone
from .lip_heads import RobustHead, check_augments


@MODELS.register_module()
class LipschitzClassifier(CertifiedPredictions, ImageClassifier):
    r"""``ImageClassifier`` that also says how far a prediction is safe.

    ``loss``, ``predict`` and ``tensor`` are those of ``ImageClassifier``.
    With ``test_cfg=dict(certify=...)`` every predicted data sample also has

    =================== ==================================================
    ``certify_eps``     the radii asked for, in pixel units
    ``certified``       for each, whether no image of the ball has another
                        prediction than the true label (the predicted one,
                        if there is no label)
    ``worst_margin``    for each, an upper bound of
                        :math:`\max_{k \ne y} z_k - z_y` over the ball
    ``certified_radius``a radius, in pixel units, within which the prediction
                        cannot change, right or wrong
    ``radius_lipschitz``the same by half the margin alone (``LipClsHead``)
    ``attacked``        for each radius, still right under the attack
    =================== ==================================================

    Radii are in pixel units of images in [0, 1], such as 8/255; mean and std
    of the data preprocessor, in 0-255 units as everywhere in mmpretrain,
    convert them: channel by channel for intervals, by the smallest std for
    the Lipschitz rule.

    Args:
        backbone (dict): One of ``mmext.LipMLP``, ``LipConv``, ``LipLeNet``,
            ``LipAlexNet``, ``LipVGG``.
        head (dict): ``mmext.LipClsHead`` or ``mmext.BoundMLPHead``.
        neck (dict, optional): Must be None, since a neck has no bounds.
        test_cfg (dict, optional): ``dict(certify=...)``, see
            :class:`~.certification.CertifyOptions`. Defaults to None.
        **kwargs: See ``mmpretrain.models.ImageClassifier``.

    Raises:
        ConfigError: If the parts give no certificate, do not fit, or the
            data preprocessor does not normalise, or mixes images whose
            margins are trained.

    Examples:
        >>> model = dict(
        ...     type='mmext.LipschitzClassifier',
        ...     data_preprocessor=dict(mean=[33.3285], std=[78.5655]),
        ...     backbone=dict(
        ...         type='mmext.LipMLP', in_channels=1, img_size=28),
        ...     head=dict(
        ...         type='mmext.LipClsHead', num_classes=10,
        ...         in_channels=5120, eps_train=0.45),
        ...     test_cfg=dict(certify=dict(eps=[0.1, 0.3])))
    """

    def __init__(self,
                 backbone: dict,
                 neck: Optional[dict] = None,
                 head: Optional[dict] = None,
                 test_cfg: Optional[dict] = None,
                 **kwargs: Any) -> None:
        super().__init__(backbone, neck, head, **kwargs)
        self.certify = CertifyOptions.from_cfg(test_cfg)
        self._check_parts()
        if self.certify is not None:
            self.head.pixel_range = self.certify.pixel_range
        if self.certify is not None or self.head.eps or hasattr(
                self.data_preprocessor, 'std'):
            _, std = normalisation(self.data_preprocessor,
                                   self.head.pixel_range)
            if len(std) not in (1, self.backbone.input_size[0]):
                raise ConfigError(
                    f'The data preprocessor has {len(std)} std, but the '
                    f'backbone takes {self.backbone.input_size[0]} channels.')
            self.head.eps_scale = float((1 / std).max())

    def _check_parts(self) -> None:
        if not isinstance(self.backbone, LipBackbone) or self.with_neck \
                or not isinstance(self.head, RobustHead):
            names = [
                type(part).__name__
                for part in (self.backbone, self.neck, self.head)
            ]
            raise ConfigError(
                'LipschitzClassifier certifies a mmext.Lip* backbone without '
                'a neck and with mmext.LipClsHead or mmext.BoundMLPHead, but '
                f'got {", ".join(names)}. Other parts train under '
                "type='ImageClassifier', without certificates.")
        if self.head.in_channels != self.backbone.out_features:
            raise ConfigError(
                f'The backbone has {self.backbone.out_features} features, but '
                f'head.in_channels={self.head.in_channels}. Set it to '
                f'{self.backbone.out_features}.')
        check_augments(self.data_preprocessor, self.head)

    def scores(self, inputs: Tensor) -> Tensor:
        """Logits of normalised images, shape (B, C)."""
        return self.head(self.extract_feat(inputs))

    def certifier(self, options: Optional[CertifyOptions] = None) -> Certifier:
        """Residuals and radii of normalised images.

        Args:
            options (CertifyOptions, optional): Defaults to those of
                ``test_cfg``.

        Returns:
            Certifier: For images as the data preprocessor gives them.
        """
        options = options or self.certify
        mean, std = normalisation(self.data_preprocessor, options.pixel_range)
        return Certifier(self.backbone, self.head.classifier, mean, std,
                         options.clamp, options.sound_rounding)

    def input_space(self) -> Tuple[Tensor, Tensor, Tensor]:
        """Per channel: inputs per pixel unit, and inputs of black, white."""
        mean, std = normalisation(self.data_preprocessor,
                                  self.certify.pixel_range)
        return 1 / std, -mean / std, (1 - mean) / std

    def predict(self,
                inputs: Tensor,
                data_samples: Optional[List[DataSample]] = None,
                **kwargs: Any) -> List[DataSample]:
        """Predictions, with certificates if ``test_cfg`` asks for them.

        Args:
            inputs (Tensor): Normalised images, shape (B, C, H, W).
            data_samples (list[DataSample], optional): With ``gt_label`` for
                certified accuracy. Defaults to None.
            **kwargs: For ``head.predict``.

        Returns:
            list[DataSample]: With ``pred_score``, ``pred_label`` and the
            fields above.

        Raises:
            CertificationError: In train mode, at a finite p, under autocast,
                for a checkpoint of an unfinished schedule, or for images
                that are not normalised as the data preprocessor says.
        """
        if self.certify is None:
            return super().predict(inputs, data_samples, **kwargs)
        with torch.no_grad(), self.certifiable(inputs):
            feats = self.extract_feat(inputs)
            samples = self.head.predict(feats, data_samples, **kwargs)
            return self.add_certificates(inputs, self.head(feats), samples)
