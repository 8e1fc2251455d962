# Copyright (c) mmext contributors. All rights reserved.
"""The losses as parts of a config."""
from typing import Dict, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmext.registry import MODELS, register_depth
from mmext.utils.arguments import check_number, is_positive
from mmext.utils.user_error import ConfigError
from .adversarial import gradient_reversal
from .heads import DomainClassifier
from .losses import (contrastive_loss, masked_feature_loss, sig_loss, ssi_loss,
                     uncertainty_loss)


@register_depth(MODELS)
class SigLoss(nn.Module):
    """:func:`~mmext.models.distillers.sig_loss`.

    It is neither mmseg's ``SiLogLoss`` (biased variance, 0.5, per image) nor
    that of other depth toolboxes (eps 0.001, weight 10).

    Args:
        loss_weight (float): Defaults to 1.
        eps (float): Defaults to 0.1.
        mean_weight (float): Defaults to 0.15.

    Example:
        >>> loss_depth = dict(type='mmext.SigLoss')
    """

    def __init__(self,
                 loss_weight: float = 1.,
                 eps: float = 0.1,
                 mean_weight: float = 0.15) -> None:
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight, 0)
        self.eps = check_number('eps', eps, 0)
        self.mean_weight = check_number('mean_weight', mean_weight, 0)

    def forward(self,
                pred: Tensor,
                target: Tensor,
                mask: Optional[Tensor] = None) -> Tensor:
        """Depths (B, 1, H, W) in metres and a bool mask to a scalar."""
        return self.loss_weight * sig_loss(pred, target, mask, self.eps,
                                           self.mean_weight)


@register_depth(MODELS)
class SSILoss(nn.Module):
    """:func:`~mmext.models.distillers.ssi_loss`.

    Args:
        loss_weight (float): Defaults to 1.
        alpha (float): Defaults to 0.5.
        scales (int): Defaults to 4.
        reduction (str): 'batch' or 'image'. Defaults to 'batch'.
        inverse (bool): Compare inverse depths. Defaults to False.

    Example:
        >>> loss_depth = dict(type='mmext.SSILoss', inverse=True)
    """

    def __init__(self,
                 loss_weight: float = 1.,
                 alpha: float = 0.5,
                 scales: int = 4,
                 reduction: str = 'batch',
                 inverse: bool = False) -> None:
        super().__init__()
        if reduction not in ('batch', 'image'):
            raise ConfigError("Expected reduction to be 'batch' or 'image', "
                              f'but got {reduction!r}.')
        self.loss_weight = check_number('loss_weight', loss_weight, 0)
        self.inverse = inverse
        self.options = dict(
            alpha=check_number('alpha', alpha, 0),
            scales=check_number('scales', scales, 1, whole=True),
            reduction=reduction)

    def forward(self,
                pred: Tensor,
                target: Tensor,
                mask: Optional[Tensor] = None) -> Tensor:
        """Depths (B, 1, H, W) in metres and a bool mask to a scalar."""
        if mask is None:
            mask = target > 0
        if self.inverse:
            pred, target = (1 / x.masked_fill(~mask, 1.).clamp_min(1e-3)
                            for x in (pred, target))
        return self.loss_weight * ssi_loss(pred, target, mask, **self.options)


@register_depth(MODELS)
class UncertaintyLoss(nn.Module):
    """:func:`~mmext.models.distillers.uncertainty_loss`.

    Args:
        loss_weight (float): Defaults to 1.
        mode (str): 'l1', 'l2' or 'l1log'. Defaults to 'l1'.
        detach_target (bool): Keep gradients from the prediction.
            Defaults to False, as published.

    Example:
        >>> loss_uncertainty = dict(type='mmext.UncertaintyLoss', mode='l2')
    """

    def __init__(self,
                 loss_weight: float = 1.,
                 mode: str = 'l1',
                 detach_target: bool = False) -> None:
        super().__init__()
        if mode not in ('l1', 'l2', 'l1log'):
            raise ConfigError("Expected mode to be 'l1', 'l2' or 'l1log', "
                              f'but got {mode!r}.')
        self.loss_weight = check_number('loss_weight', loss_weight, 0)
        self.mode = mode
        self.detach_target = detach_target

    def forward(self,
                uncertainty: Tensor,
                pred: Tensor,
                target: Tensor,
                mask: Optional[Tensor] = None) -> Tensor:
        """Maps (B, 1, H, W) and a bool mask to a scalar."""
        return self.loss_weight * uncertainty_loss(
            uncertainty, pred, target, mask, self.mode, self.detach_target)


@register_depth(MODELS)
class ContrastiveLoss(nn.Module):
    """:func:`~mmext.models.distillers.contrastive_loss`.

    Args:
        loss_weight (float): Defaults to 1.
        normalize (bool): Defaults to False.
        temperature (float): Defaults to 1.
        symmetric (bool): Defaults to False.

    Example:
        >>> loss = dict(
        ...     type='mmext.ContrastiveLoss', normalize=True,
        ...     temperature=0.07, symmetric=True)
    """

    def __init__(self,
                 loss_weight: float = 1.,
                 normalize: bool = False,
                 temperature: float = 1.,
                 symmetric: bool = False) -> None:
        super().__init__()
        if not is_positive(temperature):
            raise ConfigError('Expected a positive temperature, but got '
                              f'{temperature!r}.')
        self.loss_weight = check_number('loss_weight', loss_weight, 0)
        self.options = dict(
            normalize=normalize, temperature=temperature, symmetric=symmetric)

    def forward(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Embeddings (B, D) of both to a scalar."""
        return self.loss_weight * contrastive_loss(teacher, student, **
                                                   self.options)


@register_depth(MODELS)
class MaskedFeatureLoss(nn.Module):
    """:func:`~mmext.models.distillers.masked_feature_loss`.

    A student's map of another size is resized (bilinear) to the teacher's.

    Args:
        loss_weight (float): Defaults to 1.

    Example:
        >>> loss = dict(type='mmext.MaskedFeatureLoss', loss_weight=0.01)
    """

    def __init__(self, loss_weight: float = 1.) -> None:
        super().__init__()
        self.loss_weight = check_number('loss_weight', loss_weight, 0)

    def forward(self,
                teacher: Tensor,
                student: Tensor,
                mask: Optional[Tensor] = None) -> Tensor:
        """Features (B, C, H, W) and a bool mask (B, 1, H, W) to a scalar.

        Raises:
            ConfigError: If the channels differ.
        """
        if teacher.size(1) != student.size(1):
            raise ConfigError(
                f'Expected features of {teacher.size(1)} channels, those of '
                f'the teacher, but the student has {student.size(1)}. Give '
                'the distillation a connector=dict(in_channels='
                f'{student.size(1)}, out_channels={teacher.size(1)}).')
        if student.shape[2:] != teacher.shape[2:]:
            student = F.interpolate(
                student,
                size=teacher.shape[2:],
                mode='bilinear',
                align_corners=False)
        return self.loss_weight * masked_feature_loss(teacher, student, mask)


@register_depth(MODELS)
class DomainAdversarialLoss(nn.Module):
    r"""Domain classification behind a reversal of gradients.

    .. math:: L = NLL(C(GRL_\beta(f_S)), 0) + NLL(C(GRL_\beta(f_T)), 1)

    The classifier learns to tell the domains apart, the features learn to
    make that hard. Published are two classifiers, each of which only ever
    sees one domain and can win with its bias (``share_head=False``).

    Args:
        in_channels (int): Of the features.
        hidden (int): Width of the classifier. Defaults to 256.
        beta (float): Strength of the reversal. Defaults to 0.01.
        share_head (bool): One classifier for both. Defaults to True.
        joint_batch (bool): Give both domains to the shared classifier in
            one batch, so that its BatchNorm sees both; apart, it would
            normalise away the very difference. Defaults to True.
        loss_weight (float): Defaults to 0.1.

    Example:
        >>> loss = dict(type='mmext.DomainAdversarialLoss', in_channels=768)
    """

    def __init__(self,
                 in_channels: int,
                 hidden: int = 256,
                 beta: float = 0.01,
                 share_head: bool = True,
                 joint_batch: bool = True,
                 loss_weight: float = 0.1) -> None:
        super().__init__()
        self.beta = check_number('beta', beta, 0)
        self.loss_weight = check_number('loss_weight', loss_weight, 0)
        self.share_head, self.joint_batch = share_head, joint_batch
        names = ('head', ) if share_head else ('head_source', 'head_target')
        for name in names:
            self.add_module(name, DomainClassifier(in_channels, hidden))

    def log_probabilities(self, source: Tensor,
                          target: Tensor) -> Tuple[Tensor, Tensor]:
        """What the classifier says of features (B, C, h, w), (B, 2) each."""
        source, target = (
            gradient_reversal(x, self.beta) for x in (source, target))
        if not self.share_head:
            return self.head_source(source), self.head_target(target)
        if self.joint_batch and source.shape[2:] == target.shape[2:]:
            both = self.head(torch.cat([source, target]))
            return both[:len(source)], both[len(source):]
        return self.head(source), self.head(target)

    def forward(self, source: Tensor, target: Tensor) -> Dict[str, Tensor]:
        """The loss of a batch of each domain.

        Args:
            source (Tensor): Features (B, C, h, w).
            target (Tensor): Features (B', C, h', w').

        Returns:
            dict[str, Tensor]: ``loss_sca`` with its weight, and
            ``sca_accuracy``, the share of images that are told apart.
        """
        outputs = self.log_probabilities(source, target)
        loss = 0.
        right, total = 0., 0
        for domain, logs in enumerate(outputs):
            labels = torch.full((len(logs), ), domain, device=logs.device)
            loss = loss + F.nll_loss(logs, labels)
            right = right + (logs.detach().argmax(1) == labels).sum()
            total += len(logs)
        return dict(
            loss_sca=self.loss_weight * loss, sca_accuracy=right / total)
