# Copyright (c) mmext contributors. All rights reserved.
"""Heads of l-infinity networks: logits, training residuals, certificates."""
import inspect
import logging
import math
from typing import Any, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.logging import print_log
from mmpretrain.evaluation.metrics import Accuracy
from mmpretrain.models.heads import ClsHead
from mmpretrain.structures import DataSample
from torch import Tensor

from mmext.registry import MODELS
from mmext.utils.user_error import ConfigError
from ..lipschitz.bound_heads import BoundMLP, DistanceHead
from ..lipschitz.bounds import Bounds
from ..lipschitz.boxes import check_eps, warn_large_eps
from ..lipschitz.certificates import check_labels, lipschitz_residual
from ..lipschitz.loss_modules import LACKS_LAM

Features = Tuple[Union[Tensor, Bounds], ...]


def eps_scale(std: Sequence[float], pixel_range: float = 255.) -> float:
    r"""Network units per pixel unit, :math:`\max_c r / \mathrm{std}_c`.

    A pixel radius (of images in [0, 1]) times this holds the normalised
    ball of every channel; with equal stds exactly so.

    Args:
        std (Sequence[float]): As in the data preprocessor.
        pixel_range (float): r, what white is in the data. Defaults to 255.

    Returns:
        float: The factor.
    """
    values = [float(value) for value in torch.as_tensor(std).flatten()]
    if not values or any(not math.isfinite(value) or value <= 0
                         for value in values):
        raise ConfigError('std of the data preprocessor are positive numbers, '
                          f'but got {values}.')
    return max(pixel_range / value for value in values)


class RobustHead(ClsHead):
    r"""Base of heads that train on the worst case in a ball.

    With logits z and a bound of the margins over the training ball,
    :math:`r_k \ge z_k(x') - z_y(x')`, the loss is one of

    * the losses of this package, ``dict(type='mmext.LipHingeLoss')`` and its
      siblings, which see z, r and the radius;
    * any of mmpretrain's losses on z alone.

    ``eps`` (in pixel units), ``kappa`` and ``lam`` are plain attributes that
    :class:`~mmext.engine.hooks.PNormScheduleHook` sets in every iteration;
    without the hook they keep what the config says.

    Args:
        num_classes (int): C.
        in_channels (int): Length of the features.
        loss (dict): The loss. Defaults to ``dict(type='mmext.LipHingeLoss')``.
        eps_train (float | str): Training radius in pixel units of images
            in [0, 1], such as 8/255 or ``'8/255'``. Defaults to 0.
        kappa (float): Weight of the worst case, the rest is for the clean
            margins. Defaults to 1.
        lam (float): Weight of the cross-entropy in ``LipMixtureLoss``,
            ``LipCEHingeLoss`` and ``LipMaskedCELoss``, which learn nothing
            without it; 0.05 to 1 in the published recipes. Defaults to 0.
        std (Sequence[float], optional): Those of the data preprocessor, if
            the classifier is the stock ``ImageClassifier``;
            ``LipschitzClassifier`` fills it in. Defaults to None.
        pixel_range (float): What white is in the data. Defaults to 255.
        topk (int | tuple[int]): Of the accuracy in training.
            Defaults to (1, ).
        cal_acc (bool): Compute the accuracy in training. Defaults to False.
        init_cfg (dict, optional): Defaults to None.

    Raises:
        ValueError: If ``eps_train`` is no radius in pixel units.
    """

    classifier: Union[DistanceHead, BoundMLP]
    """From features to logits, residuals and their bounds."""

    def __init__(self,
                 num_classes: int,
                 in_channels: int,
                 loss: dict = dict(type='mmext.LipHingeLoss'),
                 eps_train: Union[float, str] = 0.,
                 kappa: float = 1.,
                 lam: float = 0.,
                 std: Optional[Sequence[float]] = None,
                 pixel_range: float = 255.,
                 topk: Union[int, Tuple[int]] = (1, ),
                 cal_acc: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(loss, topk, cal_acc, init_cfg)
        if num_classes < 2:
            raise ConfigError('A certificate compares classes: expected '
                              f'num_classes >= 2, but got {num_classes}.')
        eps_train = check_eps(eps_train)
        warn_large_eps(eps_train)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.eps_train = self.eps = float(eps_train)
        self.kappa = float(kappa)
        self.lam = float(lam)
        self.pixel_range = float(pixel_range)
        self.eps_scale = None if std is None else eps_scale(std, pixel_range)
        self._robust = 'residual' in inspect.signature(
            self.loss_module.forward).parameters
        self._started = False

    @property
    def robust(self) -> bool:
        """bool: Whether the loss takes margins, and not logits alone."""
        return self._robust

    @property
    def needs_lam(self) -> bool:
        """bool: Whether wrong images learn by the cross-entropy alone."""
        return getattr(self.loss_module, 'needs_lam', False)

    def train_radius(self) -> float:
        """The training radius in the units of the network.

        Raises:
            ConfigError: If the normalisation is not known.
        """
        if not self.eps:
            return 0.
        if self.eps_scale is None:
            raise ConfigError(
                f'{type(self).__name__} trains with eps={self.eps:g} in pixel '
                'units and must know the std of the data preprocessor. Use '
                "type='mmext.LipschitzClassifier', or give the head "
                'std=[...] with the values of data_preprocessor.')
        return self.eps * self.eps_scale

    def pre_logits(self, feats: Features) -> Union[Tensor, Bounds]:
        """Features of the last stage, (B, in_channels)."""
        return feats[-1]

    def forward(self, feats: Features) -> Union[Tensor, Bounds]:
        """Logits (B, C), or their bounds for bounds of the features."""
        return self.classifier(self.pre_logits(feats))

    def train_terms(self, feats: Features,
                    labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Logits and residuals at the training radius.

        Args:
            feats (tuple[Tensor]): Features.
            labels (Tensor): y, shape (B, ).

        Returns:
            tuple[Tensor, Tensor]: z and r, both (B, C), r 0 at the label.
        """
        raise NotImplementedError

    def bounds(self, feats: Features, labels: Tensor) -> Tensor:
        """Residuals over a box of features.

        Args:
            feats (tuple[Bounds]): Boxes of the features.
            labels (Tensor): y, shape (B, ).

        Returns:
            Tensor: r, shape (B, C), 0 at the label: upper bounds of
            z_k - z_y over the box. In evaluation, at p = inf.
        """
        return self.classifier.residual(self.pre_logits(feats), labels)

    def robust_loss(self, logits: Tensor, residual: Tensor, labels: Tensor,
                    radius: float) -> dict:
        """The loss of given logits and residuals, and the accuracy.

        Args:
            logits (Tensor): z, shape (B, C).
            residual (Tensor): r, shape (B, C).
            labels (Tensor): y, shape (B, ).
            radius (float): Training radius in the units of the network.

        Returns:
            dict[str, Tensor]: ``loss`` and ``accuracy_top-k``.
        """
        if not self._started and self.needs_lam and not self.lam:
            print_log(LACKS_LAM, logger='current', level=logging.WARNING)
        self._started = True
        losses = dict(
            loss=self.loss_module(
                logits,
                residual,
                labels,
                theta=2 * radius,
                kappa=self.kappa,
                lam=self.lam))
        if self.cal_acc:
            accuracy = Accuracy.calculate(logits, labels, topk=self.topk)
            losses.update({
                f'accuracy_top-{k}': a
                for k, a in zip(self.topk, accuracy)
            })
        return losses

    def loss(self, feats: Features, data_samples: List[DataSample],
             **kwargs: Any) -> dict:
        """Loss of a batch.

        Args:
            feats (tuple[Tensor]): Features.
            data_samples (list[DataSample]): With ``gt_label``.
            **kwargs: For a loss of mmpretrain.

        Returns:
            dict[str, Tensor]: ``loss`` and ``accuracy_top-k``.
        """
        if not self._robust:
            return super().loss(feats, data_samples, **kwargs)
        labels = hard_labels(data_samples, self.num_classes)
        logits, residual = self.train_terms(feats, labels)
        return self.robust_loss(logits, residual, labels, self.train_radius())

    def _get_predictions(
        self, cls_score: Tensor,
        data_samples: Optional[List[Optional[DataSample]]]
    ) -> List[DataSample]:
        # The label of the largest logit: a softmax may round close logits to
        # the same score, of which no certificate speaks.
        samples = super()._get_predictions(cls_score, data_samples)
        for sample, label in zip(samples, cls_score.argmax(1, keepdim=True)):
            sample.set_pred_label(label)
        return samples


def check_augments(preprocessor: Any, head: RobustHead) -> None:
    """Refuse mixed images where the loss bounds margins.

    Args:
        preprocessor (nn.Module): The data preprocessor.
        head (RobustHead): Losses of mmpretrain take soft labels.

    Raises:
        ConfigError: If it mixes images.
    """
    if head.robust and getattr(preprocessor, 'batch_augments', None):
        raise ConfigError(
            'Margins need one class per image, but '
            'train_cfg=dict(augments=...), or batch_augments of the data '
            'preprocessor, mixes the images and labels of a batch. Leave it '
            'out, or give the head a loss of mmpretrain that takes soft '
            'labels.')


def hard_labels(data_samples: List[DataSample], num_classes: int) -> Tensor:
    """Labels of a batch, one for each image.

    Args:
        data_samples (list[DataSample]): With ``gt_label``.
        num_classes (int): C.

    Returns:
        Tensor: int64, shape (B, ), on the device of the samples.

    Raises:
        ConfigError: For soft labels, of which no margin can be bounded, and
            for labels outside of the classes.
    """
    if any('gt_score' in sample for sample in data_samples):
        raise ConfigError(
            'Margins need one class per image, but the data samples have soft '
            'labels. Take batch_augments (mixup, cutmix) and to_onehot out of '
            'the data preprocessor and of train_cfg.')
    labels = torch.cat([sample.gt_label for sample in data_samples])
    if len(labels) != len(data_samples):
        raise ConfigError('Margins need one class per image, but some have '
                          'several labels.')
    if not labels.is_cuda:
        # Asking a GPU would wait for it in every step; its own assertion
        # stops the run.
        check_labels(labels, num_classes)
    return labels


@MODELS.register_module()
class LipClsHead(RobustHead):
    r"""The last distance layer, negated: 1-Lipschitz logits.

    .. math:: z_k = -(\lVert h - w_k \rVert_p + b_k), \qquad
              r_k = z_k - z_y + 2 \epsilon

    At p = inf every logit is 1-Lipschitz for l-infinity, so that the
    prediction holds within half the margin.

    Args:
        p (float): Exponent that training starts with. Defaults to 8.
        sort (dict, optional): Options of SortNet neurons, as in the
            backbone. Defaults to None.
        identity (float, optional): As in the backbone. Defaults to 10.
        **kwargs: See :class:`RobustHead`.

    Examples:
        >>> head = dict(
        ...     type='mmext.LipClsHead', num_classes=10, in_channels=512,
        ...     loss=dict(type='mmext.LipHingeLoss', mix=0.75),
        ...     eps_train=5 * 8 / 255)
    """

    def __init__(self,
                 *args: Any,
                 p: float = 8.,
                 sort: Optional[dict] = None,
                 identity: Optional[float] = 10.,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.classifier = DistanceHead(self.in_channels, self.num_classes, p,
                                       sort, identity)

    def train_terms(self, feats: Features,
                    labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Logits, and margins plus twice the radius."""
        logits = self(feats)
        return logits, lipschitz_residual(logits, labels, self.train_radius())


@MODELS.register_module()
class BoundMLPHead(RobustHead):
    r"""A bounded perceptron on distance features (the "++" models).

    .. math::
        z = s_2 W_2 \tanh(s_1 W_1 h + b_1) + b_2, \qquad
        s = 1 / \sqrt{\text{fan-in}}

    Boxes are propagated as centre and radius; the last layer bounds the
    margins :math:`(W_k - W_y) g + b_k - b_y` themselves, which is tighter
    than the difference of two logits. In training the box is
    :math:`h \pm \epsilon`. The logits are *not* 1-Lipschitz: half the margin
    certifies nothing here.

    Args:
        hidden (int): Width of the hidden layer. Defaults to 512.
        exact_eval (bool): Compute the logits in float64 in evaluation, as
            certificates assume. Defaults to True.
        **kwargs: See :class:`RobustHead`.

    Examples:
        >>> head = dict(
        ...     type='mmext.BoundMLPHead', num_classes=10, in_channels=1024,
        ...     hidden=512, loss=dict(type='mmext.LipCrossEntropyLoss'),
        ...     eps_train=0.35, kappa=0.5)
    """

    def __init__(self,
                 *args: Any,
                 hidden: int = 512,
                 exact_eval: bool = True,
                 **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.classifier = BoundMLP(self.in_channels, hidden, self.num_classes,
                                   exact_eval)

    def train_terms(self, feats: Features,
                    labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Logits, and residuals of the features plus and minus eps."""
        x = self.pre_logits(feats)
        residual = self.classifier.lipschitz_residual(x, labels,
                                                      self.train_radius())
        return self.classifier(x), residual
