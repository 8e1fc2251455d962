# Copyright (c) mmext contributors. All rights reserved.
r"""Training objectives of l-infinity-distance nets, as pure functions.

``logits`` are :math:`z` of shape (B, C); the margins of an image of class y
are :math:`m_k = z_k - z_y`; the worst-case ``residual`` :math:`r_k` bounds
them over the ball of the training radius, :math:`r_k = m_k + \theta` with
:math:`\theta = 2\epsilon` for 1-Lipschitz logits, :math:`r_y = 0` (the
equations of arXiv:2102.05363, 2107.00230 and 2110.06850).
"""
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """What each class has more than the true one, :math:`z_k - z_y`.

    Args:
        logits (Tensor): (B, C).
        labels (Tensor): True classes, (B, ).

    Returns:
        Tensor: (B, C), 0 at the label.
    """
    return logits - logits.gather(1, labels[:, None])


def hinge_loss(residual: Tensor, mix: float = 0.75) -> Tensor:
    r"""Hinge of the first generation (P1, EMA and ensembles).

    .. math::
        \mathrm{mix}\,\frac1B\sum_b\max_k [r_k]_+ +
        (1-\mathrm{mix})\,\frac1{BC}\sum_{b,k} [r_k]_+

    Args:
        residual (Tensor): (B, C), 0 at the label.
        mix (float): Weight of the largest entry. Defaults to 0.75.

    Returns:
        Tensor: Scalar.
    """
    positive = residual.clamp(min=0)
    return mix * positive.amax(1).mean() + (1 - mix) * positive.mean()


def cross_entropy_residual(residual: Tensor, labels: Tensor) -> Tensor:
    r"""Cross-entropy of the worst case,
    :math:`\frac1B\sum_b\log\sum_k e^{r_k}` (as :math:`r_y = 0`).

    Args:
        residual (Tensor): (B, C), 0 at the label.
        labels (Tensor): True classes, (B, ).

    Returns:
        Tensor: Scalar.
    """
    return F.cross_entropy(residual, labels)


def scale_residual(residual: Tensor, theta: float) -> Tensor:
    r"""In units of the threshold, :math:`v_k = r_k/\theta`.

    At the first iterations of a radius that rises from 0 there is no
    threshold to divide by; the residual then stays as it is.

    Args:
        residual (Tensor): (B, C).
        theta (float): Twice the training radius, in units of the logits.

    Returns:
        Tensor: (B, C).

    Raises:
        ConfigError: If ``theta`` is negative.
    """
    if theta < 0:
        raise ConfigError('The threshold is twice the training radius and not '
                          f'negative, but got {theta}.')
    return residual / theta if theta > 0 else residual


def scaled_hinge_loss(scaled: Tensor, mix: float = 0.25) -> Tensor:
    r"""Hinge of the second generation (P2).

    .. math::
        (1-\mathrm{mix})\,\frac1B\sum_b\max_k [v_k]_+ +
        \mathrm{mix}\,\frac1{BC}\sum_{b,k} [v_k]_+

    ``mix`` weighs the mean here, and the maximum in :func:`hinge_loss`.

    Args:
        scaled (Tensor): :func:`scale_residual`, (B, C).
        mix (float): Weight of the mean. Defaults to 0.25.

    Returns:
        Tensor: Scalar.
    """
    return hinge_loss(scaled, 1 - mix)


def mixture_loss(scaled: Tensor,
                 scaled_logits: Tensor,
                 labels: Tensor,
                 lam: float,
                 clip: float = 1.) -> Tensor:
    r"""Clipped hinge and a cross-entropy that fades (P2, and P3 for pure
    nets).

    .. math::
        \frac1B\sum_b\max_k \mathrm{clip}(v_k, 0, 1)
        + \lambda\,\mathrm{CE}(s z, y)

    The clip (1 above) stops gradients from images that are misclassified, as
    :math:`v_k > 1` exactly if :math:`z_k > z_y`; alone it diverges.

    Args:
        scaled (Tensor): :func:`scale_residual`, (B, C).
        scaled_logits (Tensor): Logits times a learnable scalar, (B, C).
        labels (Tensor): True classes, (B, ).
        lam (float): Weight of the cross-entropy.
        clip (float): Upper end of the hinge. Defaults to 1.

    Returns:
        Tensor: Scalar.
    """
    hinge = scaled.clamp(0, clip).amax(1).mean()
    return hinge + lam * F.cross_entropy(scaled_logits, labels)


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).to(logits.dtype)


def ce_hinge_loss(residual: Tensor, scaled_logits: Tensor, labels: Tensor,
                  lam: float) -> Tensor:
    r"""Hinge on images that are classified correctly, and cross-entropy (P3
    for networks with a linear head).

    .. math::
        \frac1B\sum_b [\hat y_b = y_b] \max(0, \max_{k\ne y} r_k + 1)
        + \lambda\,\mathrm{CE}(s z, y)

    Args:
        residual (Tensor): (B, C), 0 at the label.
        scaled_logits (Tensor): Logits times a learnable scalar, (B, C).
        labels (Tensor): True classes, (B, ).
        lam (float): Weight of the cross-entropy.

    Returns:
        Tensor: Scalar.
    """
    raised = (residual + 1).scatter(1, labels[:, None], 0.).amax(1)
    hinge = (_correct(scaled_logits, labels) * raised).mean()
    return hinge + lam * F.cross_entropy(scaled_logits, labels)


def masked_ce_loss(residual: Tensor, scaled_logits: Tensor, labels: Tensor,
                   lam: float) -> Tensor:
    r"""Worst-case cross-entropy on images that are classified correctly, and
    plain cross-entropy on all (P3, the other variant).

    .. math::
        \frac1B\sum_b [\hat y_b = y_b] \log\sum_k e^{r_k}
        + \lambda\,\mathrm{CE}(s z, y)

    Args:
        residual (Tensor): (B, C), 0 at the label.
        scaled_logits (Tensor): Logits times a learnable scalar, (B, C).
        labels (Tensor): True classes, (B, ).
        lam (float): Weight of the plain cross-entropy.

    Returns:
        Tensor: Scalar.
    """
    worst = F.cross_entropy(residual, labels, reduction='none')
    masked = (_correct(scaled_logits, labels) * worst).mean()
    return masked + lam * F.cross_entropy(scaled_logits, labels)
