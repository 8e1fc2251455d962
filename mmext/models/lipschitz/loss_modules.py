# Copyright (c) mmext contributors. All rights reserved.
"""The objectives of :mod:`.losses` as modules that a head builds.

All are called alike, so that a head need not know which one it has::

    loss(logits, residual, labels, theta, kappa, lam)
"""
import torch
from torch import Tensor, nn

from mmext.registry import MODELS
from mmext.utils.user_error import ConfigError
from . import losses

LACKS_LAM = (
    'The loss of the head leaves wrong images to the cross-entropy, but its '
    'weight lam is 0 from the start: a fresh network stays at chance. Set '
    'lam of the head, such as 0.05, or of PNormScheduleHook, such as '
    '(0.05, 2e-4).')


class _Combined(nn.Module):
    r"""kappa times the worst case plus (1 - kappa) times the clean one.

    .. math:: \kappa\,\ell(r) + (1-\kappa)\,\ell(m)
    """

    def one(self, residual: Tensor, labels: Tensor, theta: float) -> Tensor:
        """The loss of one residual."""
        raise NotImplementedError

    def forward(self,
                logits: Tensor,
                residual: Tensor,
                labels: Tensor,
                theta: float,
                kappa: float = 1.,
                lam: float = 0.) -> Tensor:
        """Compute the loss.

        Args:
            logits (Tensor): (B, C).
            residual (Tensor): Worst case at the training radius, (B, C), 0
                at the label.
            labels (Tensor): True classes, (B, ).
            theta (float): Twice the training radius, in units of the
                logits; used where residuals are divided by it.
            kappa (float): Weight of the worst case. Defaults to 1.
            lam (float): Not used. Defaults to 0.

        Returns:
            Tensor: Scalar.

        Raises:
            ConfigError: If ``kappa`` lies outside [0, 1].
        """
        if not 0 <= kappa <= 1:
            raise ConfigError(f'kappa lies in [0, 1], but got {kappa}.')
        total = 0.
        if kappa > 0:
            total = kappa * self.one(residual, labels, theta)
        if kappa < 1:
            clean = losses.margins(logits, labels)
            total = total + (1 - kappa) * self.one(clean, labels, theta)
        return total


@MODELS.register_module()
class LipHingeLoss(_Combined):
    """Hinge of distance nets, see :func:`.losses.hinge_loss`.

    Args:
        mix (float): Weight of the largest residual, the rest is for the mean
            over all classes. Defaults to 0.75.

    Example:
        >>> head = dict(
        ...     type='mmext.LipClsHead',
        ...     loss=dict(type='mmext.LipHingeLoss', mix=0.75))
    """

    def __init__(self, mix: float = 0.75) -> None:
        super().__init__()
        self.mix = _fraction(mix)

    def one(self, residual: Tensor, labels: Tensor, theta: float) -> Tensor:
        return losses.hinge_loss(residual, self.mix)


@MODELS.register_module()
class LipScaledHingeLoss(_Combined):
    """Hinge on residuals in units of the threshold, see
    :func:`.losses.scaled_hinge_loss`.

    Args:
        mix (float): Weight of the mean over all classes. Defaults to 0.25.

    Example:
        >>> loss = dict(type='mmext.LipScaledHingeLoss', mix=0.25)
    """

    def __init__(self, mix: float = 0.25) -> None:
        super().__init__()
        self.mix = _fraction(mix)

    def one(self, residual: Tensor, labels: Tensor, theta: float) -> Tensor:
        return losses.scaled_hinge_loss(
            losses.scale_residual(residual, theta), self.mix)


@MODELS.register_module()
class LipCrossEntropyLoss(_Combined):
    """Cross-entropy of the worst case, see
    :func:`.losses.cross_entropy_residual`.

    Example:
        >>> head = dict(
        ...     type='mmext.BoundMLPHead',
        ...     loss=dict(type='mmext.LipCrossEntropyLoss'),
        ...     kappa=0.5)
    """

    def one(self, residual: Tensor, labels: Tensor, theta: float) -> Tensor:
        return losses.cross_entropy_residual(residual, labels)


class _WithScalar(nn.Module):
    """A loss whose cross-entropy sees logits times a learnable scalar.

    The scalar belongs to the loss: certificates and predictions are of the
    logits themselves, which stay 1-Lipschitz.
    """

    needs_lam: bool = True
    """bool: Wrong images have no other gradient than the cross-entropy's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def one(self, scaled_logits: Tensor, residual: Tensor, labels: Tensor,
            theta: float, lam: float) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def forward(self,
                logits: Tensor,
                residual: Tensor,
                labels: Tensor,
                theta: float,
                kappa: float = 1.,
                lam: float = 0.) -> Tensor:
        """Compute the loss.

        Args:
            logits (Tensor): (B, C).
            residual (Tensor): Worst case at the training radius, (B, C), 0
                at the label.
            labels (Tensor): True classes, (B, ).
            theta (float): Twice the training radius, in units of the logits.
            kappa (float): Not used. Defaults to 1.
            lam (float): Weight of the cross-entropy. Defaults to 0.

        Returns:
            Tensor: Scalar.
        """
        return self.one(logits * self.scale, residual, labels, theta, lam)


@MODELS.register_module()
class LipMixtureLoss(_WithScalar):
    r"""Clipped hinge and fading cross-entropy, see
    :func:`.losses.mixture_loss`.

    The published recipes train the scalar with a learning rate of its own
    (``paramwise_cfg=dict(custom_keys={'scale': dict(lr_mult=0.2)})``).

    Args:
        clip (float): Upper end of the hinge. Defaults to 1.

    Up to a clip of 1 a network stays at chance without a cross-entropy: set
    ``lam`` of the head, or of the hook to let it fade. Above 1 wrong images
    have a gradient, too, while :math:`z_k - z_y < (clip - 1)\,\theta`.

    Example:
        >>> head = dict(loss=dict(type='mmext.LipMixtureLoss'), lam=0.1, ...)
        >>> custom_hooks = [
        ...     dict(type='mmext.PNormScheduleHook', lam=(0.1, 5e-4), ...)]
    """

    def __init__(self, clip: float = 1.) -> None:
        super().__init__()
        if clip <= 0:
            raise ConfigError(f'clip is positive, but got {clip}.')
        self.clip = clip
        self.needs_lam = clip <= 1

    def one(self, scaled_logits: Tensor, residual: Tensor, labels: Tensor,
            theta: float, lam: float) -> Tensor:
        return losses.mixture_loss(
            losses.scale_residual(residual, theta), scaled_logits, labels, lam,
            self.clip)


@MODELS.register_module()
class LipCEHingeLoss(_WithScalar):
    """Hinge on correct images and cross-entropy, see
    :func:`.losses.ce_hinge_loss`.

    Example:
        >>> head = dict(loss=dict(type='mmext.LipCEHingeLoss'), lam=1., ...)
    """

    def one(self, scaled_logits: Tensor, residual: Tensor, labels: Tensor,
            theta: float, lam: float) -> Tensor:
        return losses.ce_hinge_loss(residual, scaled_logits, labels, lam)


@MODELS.register_module()
class LipMaskedCELoss(_WithScalar):
    """Worst-case cross-entropy on correct images and plain cross-entropy,
    see :func:`.losses.masked_ce_loss`.

    Example:
        >>> head = dict(loss=dict(type='mmext.LipMaskedCELoss'), lam=1., ...)
    """

    def one(self, scaled_logits: Tensor, residual: Tensor, labels: Tensor,
            theta: float, lam: float) -> Tensor:
        return losses.masked_ce_loss(residual, scaled_logits, labels, lam)


def _fraction(mix: float) -> float:
    if not 0 <= mix <= 1:
        raise ConfigError(f'mix is a weight in [0, 1], but got {mix}.')
    return mix
