# Copyright (c) mmext contributors. All rights reserved.
"""Certificates of robustness in l_inf, as pure functions.

``eps`` is in pixel units of images in [0, 1] where a function says so, and
in the units that the network sees, after division by std, elsewhere. A
residual is an upper bound of ``z_k - z_y`` over the ball, 0 at the label; a
label is certified when all the others are negative (arXiv:2102.05363).
"""
import math
from typing import Callable, Tuple, Union

import torch
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bounds import Bounds
from .rounding import summation_error

#: Differences of weights at a time, 64 MiB in float64.
CELLS = 2**23


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Refuse labels outside of the classes.

    Args:
        labels (Tensor): y, shape (B, ).
        num_classes (int): C.

    Raises:
        ConfigError: With the first such label.
    """
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise ConfigError(
            f'Expected labels from 0 to {num_classes - 1}, but got '
            f'{wrong[0].item()}. Set num_classes of the head to the number '
            'of classes of the data, or mend its labels.')


def _masked(residual: Tensor, labels: Tensor) -> Tensor:
    return residual.scatter(1, labels[:, None], 0.)


def lipschitz_residual(logits: Tensor, labels: Tensor,
                       eps: Union[float, Tensor]) -> Tensor:
    r"""Residual of logits that are 1-Lipschitz for l_inf.

    .. math:: r_k = z_k - z_y + 2 \epsilon,\quad r_y = 0

    (arXiv:2102.05363). Differentiable, so it serves training too.

    Args:
        logits (Tensor): z, shape (B, C). For a distance net; not for a
            linear head, which is not 1-Lipschitz.
        labels (Tensor): y, int64, shape (B, ).
        eps (float | Tensor): Radius in the units of the network; a number
            or one per sample.

    Returns:
        Tensor: Shape (B, C).
    """
    margin = logits - logits.gather(1, labels[:, None])
    radius = eps[:, None] if isinstance(eps, Tensor) and eps.dim() else eps
    return _masked(margin + 2 * radius, labels)


def interval_residual(lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    r"""Residual from bounds of the logits.

    .. math:: r_k = \overline z_k - \underline z_y,\quad r_y = 0

    (arXiv:2102.05363). Without the valid-image clamp it is never above
    :func:`lipschitz_residual`.

    Args:
        lower (Tensor): Lower bounds, shape (B, C).
        upper (Tensor): Upper bounds, shape (B, C).
        labels (Tensor): y, int64, shape (B, ).

    Returns:
        Tensor: Shape (B, C).
    """
    return _masked(upper - lower.gather(1, labels[:, None]), labels)


def head_margin_bounds(lower: Tensor,
                       upper: Tensor,
                       weight: Tensor,
                       bias: Tensor,
                       labels: Tensor,
                       scale: float = 1.,
                       rounding: bool = False) -> Tensor:
    r"""Residual of a linear layer over a box, without bounding logits first.

    .. math:: r_k = s (W_k - W_y) c + b_k - b_y + s |W_k - W_y| r,\quad
              r_y = 0

    with centre c and radius r of the box (arXiv:2102.05363). The
    subtraction of rows before the absolute value makes it tighter than
    bounds of the logits.

    Args:
        lower (Tensor): Lower ends of the inputs, shape (B, N).
        upper (Tensor): Upper ends, shape (B, N).
        weight (Tensor): W, shape (C, N).
        bias (Tensor): b, shape (C, ).
        labels (Tensor): y, int64, shape (B, ).
        scale (float): s. Defaults to 1.
        rounding (bool): Add the rounding of float64 sums. Defaults to False.

    Returns:
        Tensor: Shape (B, C), differentiable.
    """
    weight = weight * scale
    box = Bounds(None, lower, upper)
    logits = torch.nn.functional.linear(box.centre, weight, bias)
    classes = weight.shape[0]
    if len(labels) < classes or classes * weight.numel() > CELLS:
        rows = max(1, CELLS // max(1, weight.numel()))
        parts = [
            _spread(weight, y, radius)
            for y, radius in zip(labels.split(rows), box.radius.split(rows))
        ]
        spread, size = (torch.cat(part) for part in zip(*parts))
    else:
        # One product with the table of all pairs, not B x C x N differences.
        gap = (weight[:, None] - weight).abs()  # (label, class, N)
        rows = labels[:, None] * classes + torch.arange(
            classes, device=labels.device)
        spread = (box.radius @ gap.flatten(0, 1).T).gather(1, rows)
        size = gap.sum(2)[labels]
    residual = logits - logits.gather(1, labels[:, None]) + spread
    if rounding:
        top = box.magnitude.amax(1, keepdim=True)
        whole = weight.abs().sum(1)
        whole = whole + whole[labels][:, None]
        # Centre, its difference from the label's and the spread each sum N
        # products; sizes of rows bound what they can add up to.
        residual = residual + 2 * summation_error(weight.shape[1]) * (
            top * (size + whole) + 2 * bias.abs().max())
    return _masked(residual, labels)


def _spread(weight: Tensor, labels: Tensor,
            radius: Tensor) -> Tuple[Tensor, Tensor]:
    """|W_k - W_y| r, and the sums of |W_k - W_y|, (B, C) each."""
    gap = (weight - weight[labels][:, None]).abs()  # (B, C, N)
    return torch.einsum('bcn,bn->bc', gap, radius), gap.sum(2)


def worst_margin(residual: Tensor, labels: Tensor) -> Tensor:
    """Largest residual of the other classes.

    Args:
        residual (Tensor): Shape (B, C); or logits, for the best wrong class.
        labels (Tensor): y, int64, shape (B, ).

    Returns:
        Tensor: Shape (B, ).
    """
    return residual.scatter(1, labels[:, None], -math.inf).amax(1)


def certified(residual: Tensor,
              labels: Tensor,
              slack: Union[float, Tensor] = 0.) -> Tensor:
    """Whether every other class stays below the label, strictly.

    Args:
        residual (Tensor): Shape (B, C).
        labels (Tensor): y, int64, shape (B, ).
        slack (float | Tensor): What :func:`rounding_slack` adds to each
            residual; a number or one per sample. Defaults to 0.

    Returns:
        Tensor: bool, shape (B, ). A tie, at exactly 0, is not certified.
    """
    if not isinstance(slack, Tensor):
        slack = torch.tensor(slack, dtype=torch.float64)
    return worst_margin(residual, labels) < -slack.to(residual.device)


def radius_from_margin(logits: Tensor) -> Tensor:
    """Half the lead of the predicted class, ``max(0, margin / 2)``.

    The label-free radius of 1-Lipschitz logits, in the units of the network
    and without rounding slack (arXiv:2102.05363): every smaller radius is
    certified.

    Args:
        logits (Tensor): z, shape (B, C) with C at least 2.

    Returns:
        Tensor: Shape (B, ).
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return (first - second) / 2


def rounding_slack(tau: Tensor, program: bool = True) -> Tensor:
    """What floating point may add to a residual.

    Args:
        tau (Tensor): Bound of the error of one logit, from
            :meth:`RoundingTracker.tau`.
        program (bool): True: the certificate speaks of this floating-point
            program, whose logits err at the image and at the attacked one
            (4 tau). False: of the ideal network in real numbers (2 tau).
            Defaults to True.

    Returns:
        Tensor: Slack for :func:`certified`.
    """
    return (4. if program else 2.) * tau


def bisect_radius(certifies: Callable[[Tensor], Tensor],
                  low: Tensor,
                  high: Tensor,
                  steps: int = 12) -> Tensor:
    """Largest radius that passes, by bisection for all samples at once.

    Args:
        certifies (Callable[[Tensor], Tensor]): From radii (B, ) to bool
            (B, ): whether each sample passes at its radius. A sample that
            passes at one radius passes at smaller ones.
        low (Tensor): Radii that pass, or 0, shape (B, ).
        high (Tensor): Radii that do not pass, or the largest that matter.
        steps (int): Halvings. Defaults to 12.

    Returns:
        Tensor: float64 radii that pass (``low`` where none was found),
        within ``(high - low) / 2^steps`` of the largest.
    """
    low, high = low.double().clone(), high.double().clone()
    high = torch.maximum(low, high)
    for _ in range(steps):
        middle = (low + high) / 2
        passed = certifies(middle)
        low = torch.where(passed, middle, low)
        high = torch.where(passed, high, middle)
    return low


def certified_from_radius(radius: Tensor, eps: float,
                          correct: Tensor) -> Tensor:
    """Certified decisions read off radii that are themselves certified.

    Args:
        radius (Tensor): A certified radius of each prediction, 0 for none.
        eps (float): Radius asked for, in the same units.
        correct (Tensor): bool, whether the prediction is the label.

    Returns:
        Tensor: bool, of the shape of ``radius``.
    """
    return correct & (radius >= eps) & (radius > 0)
