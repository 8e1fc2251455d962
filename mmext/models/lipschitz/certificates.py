# Copyright (c) mmext contributors. All rights reserved.
"""Certificates of robustness in l_inf, as pure functions.

``eps`` is in pixel units of images in [0, 1] where a function says so, and
in the units that the network sees, after division by std, elsewhere. A
residual is an upper bound of ``z_k - z_y`` over the ball, 0 at the label; a
label is certified when all the others are negative (specification 3).
"""
import logging
import math
from typing import Callable, Optional, Sequence, Union

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bounds import Bounds, CertificationError
from .rounding import summation_error, unit_roundoff

Numbers = Union[float, Sequence[float], Tensor]


def check_eps(eps: Numbers) -> None:
    """Refuse radii that are not in units of images in [0, 1].

    Args:
        eps (float | Sequence[float] | Tensor): One or more radii.

    Raises:
        ConfigError: If one is negative, above 1 or not finite.
    """
    # Not on a default device, which may be without values ('meta').
    device = eps.device if isinstance(eps, Tensor) else 'cpu'
    values = torch.as_tensor(eps, dtype=torch.float64, device=device)
    if bool(((values >= 0) & (values <= 1)).all()):
        return
    raise ConfigError(
        'eps is in pixel units of images in [0, 1], so between 0 and 1, but '
        f'got {eps!r}. Write 8/255, not 8; and give the pixel radius, not '
        'eps / std, which is computed from the data preprocessor.')


def warn_large_eps(eps: Union[float, Sequence[float]]) -> None:
    """Warn of radii that were probably divided by std.

    From 0.5 on, mid-grey is in the ball of every image, so that images of
    one class at most can be certified.

    Args:
        eps (float | Sequence[float]): One or more radii in pixel units.
    """
    values = eps if isinstance(eps, Sequence) else (eps, )
    if max(values, default=0.) >= 0.5:
        print_log(
            f'eps={eps!r}: a radius of 0.5 or more reaches mid-grey from '
            'every image, so that no two classes can be told apart. Give the '
            'pixel radius, such as 0.3, not eps / std, which is computed from '
            'the data preprocessor.',
            logger='current',
            level=logging.WARNING)


def _channels(values: Numbers, what: str) -> Tensor:
    found = torch.as_tensor(values, dtype=torch.float64).reshape(-1)
    if what == 'std' and not bool((found > 0).all()):
        raise ValueError(f'std must be above 0, but got {values!r}.')
    return found


def _image(values: Numbers, x: Tensor) -> Tensor:
    """Numbers, per channel or per sample and channel, over (B, C, ...)."""
    if not isinstance(values, Tensor):
        # Not as_tensor(values) alone, which takes floats as float32.
        values = torch.as_tensor(values, dtype=torch.float64)
    values = values.to(x)
    if values.dim() == 0:
        return values
    tail = [1] * (x.dim() - 2)
    if values.dim() == 1 and len(values) not in (1, x.shape[1]):
        raise ValueError(
            'expected one number, or one per channel of the images, which '
            f'have {x.shape[1]}, but got {len(values)} numbers.')
    return values.reshape(*values.shape, *tail)


def _masked(residual: Tensor, labels: Tensor) -> Tensor:
    return residual.scatter(1, labels[:, None], 0.)


def lipschitz_residual(logits: Tensor, labels: Tensor,
                       eps: Union[float, Tensor]) -> Tensor:
    r"""Residual of logits that are 1-Lipschitz for l_inf.

    .. math:: r_k = z_k - z_y + 2 \epsilon,\quad r_y = 0

    (specification 3.1). Differentiable, so it serves training too.

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

    (specification 3.2). Without the valid-image clamp it is never above
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

    with centre c and radius r of the box (specification 3.3). The
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
    if len(labels) < classes:
        gap = (weight - weight[labels][:, None]).abs()  # (B, C, N)
        spread = torch.einsum('bcn,bn->bc', gap, box.radius)
        size = gap.sum(2)
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


def worst_margin(residual: Tensor, labels: Tensor) -> Tensor:
    """Largest residual of the other classes.

    Args:
        residual (Tensor): Shape (B, C).
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
    and without rounding slack (specification 3.1): every smaller radius is
    certified.

    Args:
        logits (Tensor): z, shape (B, C) with C at least 2.

    Returns:
        Tensor: Shape (B, ).
    """
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return (first - second) / 2


def rounding_slack(tau: Tensor, program: bool = True) -> Tensor:
    """What floating point may add to a residual (specification 3.5).

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


def normalised_eps(eps: Numbers,
                   std: Numbers,
                   method: str = 'interval') -> Union[float, Tensor]:
    """A pixel radius in the units that the network sees.

    Args:
        eps (float): Pixel radius of images in [0, 1].
        std (float | Sequence[float] | Tensor): std of the images in [0, 1],
            one number or one per channel.
        method (str): 'interval': eps / std per channel, a box. 'lipschitz':
            the largest of them, as the rule knows one radius only.
            Defaults to 'interval'.

    Returns:
        Tensor | float: float64 tensor of shape (C, ), or a float.

    Raises:
        ValueError: For other methods, an eps outside [0, 1] or a std that
            is not positive.
    """
    check_eps(eps)
    radii = torch.as_tensor(eps, dtype=torch.float64) / _channels(std, 'std')
    if method == 'interval':
        return radii
    if method == 'lipschitz':
        return float(radii.max())
    raise ValueError("method is 'interval' or 'lipschitz', but got "
                     f'{method!r}.')


def widened_eps(eps: Tensor, x: Tensor, program: bool = True) -> Tensor:
    r"""A radius that also covers the rounding of normalisation.

    .. math:: \epsilon' = \epsilon (1 + 4u) + 3 u \max |\hat x|

    (specification 3.5), which counts the rounding of ``(x - mean) / std`` at
    the image and of the ends of the box; ``program`` counts it at the
    attacked image too, 5 u.

    Args:
        eps (Tensor): Radius in the units of the network, any shape that
            broadcasts with (B, 1).
        x (Tensor): Normalised images, shape (B, ...).
        program (bool): As in :func:`rounding_slack`. Defaults to True.

    Returns:
        Tensor: float64, shape (B, number of radii).
    """
    unit = unit_roundoff(x.dtype)
    size = x.detach().flatten(1).abs().amax(1, keepdim=True).double()
    eps = eps.to(size) if isinstance(eps, Tensor) else eps
    return eps * (1 + 4 * unit) + (5. if program else 3.) * unit * size


def eps_box(x: Tensor,
            eps: Numbers,
            low: Optional[Numbers] = None,
            high: Optional[Numbers] = None) -> Bounds:
    """The box around images, cut off at the valid range.

    Args:
        x (Tensor): Normalised images, shape (B, C, ...).
        eps (float | Sequence[float] | Tensor): Radius in the units of the
            network: one number, one per channel (C, ), or (B, 1) or (B, C).
        low (float | Sequence[float] | Tensor, optional): Least valid value,
            ``(0 - mean) / std``; one number or one per channel. None: no
            clamp.
        high (float | Sequence[float] | Tensor, optional): Largest valid
            value, ``(1 - mean) / std``.

    Returns:
        Bounds: ``[max(x - eps, low), min(x + eps, high)]`` with x. Where a
        value of x is so far outside of the valid range that nothing valid is
        within eps, its interval reaches from x to the end of the ball.
    """
    eps = _image(eps, x)
    lower, upper = x - eps, x + eps
    if low is not None:
        lower = torch.maximum(lower, _image(low, x))
    if high is not None:
        upper = torch.minimum(upper, _image(high, x))
    # An interval upside down would bound nothing.
    empty = lower > upper
    return Bounds(x, torch.where(empty, torch.minimum(lower, x), lower),
                  torch.where(empty, torch.maximum(upper, x), upper))


def input_box(x: Tensor,
              eps: Numbers,
              mean: Numbers,
              std: Numbers,
              clamp: bool = True,
              sound: bool = True,
              program: bool = True) -> Bounds:
    """The box of normalised images for a ball in pixels.

    Args:
        x (Tensor): Normalised images, ``(pixels - mean) / std``, shape
            (B, C, H, W).
        eps (float | Tensor): Pixel radius of images in [0, 1]; one number or
            one per sample.
        mean (float | Sequence[float] | Tensor): Mean of the images in
            [0, 1], one number or one per channel.
        std (float | Sequence[float] | Tensor): Their std.
        clamp (bool): Leave out what no image in [0, 1] can be. Defaults to
            True.
        sound (bool): Grow the box by the rounding of the normalisation.
            Defaults to True.
        program (bool): As in :func:`rounding_slack`. Defaults to True.

    Returns:
        Bounds: The box, with x.

    Raises:
        ValueError: If eps is not in [0, 1].
        CertificationError: If, with ``clamp``, the images are no images in
            [0, 1] under this mean and std.
    """
    check_eps(eps)
    mean, std = _channels(mean, 'mean'), _channels(std, 'std')
    eps = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    radii = eps.reshape(-1, 1) / std.to(x.device)
    if sound:
        radii = widened_eps(radii, x, program)
    if not clamp:
        return eps_box(x, radii)
    low, high = -mean / std, (1. - mean) / std
    slip = 1e-3 * (high - low)  # a thousandth of the range is no rounding
    outside = (x < _image(low - slip, x)) | (x > _image(high + slip, x))
    if bool(outside.any()):
        raise CertificationError(
            'images are outside the valid range '
            f'[{low.min():.4g}, {high.max():.4g}] = [(0 - mean) / std, '
            f'(1 - mean) / std]: they span [{x.min():.4g}, {x.max():.4g}]. '
            'Normalise them with the same mean and std (the data '
            "preprocessor's, divided by 255 if it works on 0-255 images), or "
            'set clamp=False if they are no images.')
    if sound:
        grow = 5 * unit_roundoff(x.dtype) * torch.maximum(
            low.abs(), high.abs())
        low, high = low - grow, high + grow
    return eps_box(x, radii, low, high)


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
