# Copyright (c) mmext contributors. All rights reserved.
"""Radii of balls in l_inf and the boxes that they span around images.

``eps`` is in pixel units of images in [0, 1] where a function says so, and
in the units that the network sees, after division by std, elsewhere.
"""
import logging
from typing import Any, Optional, Sequence, Tuple, Union

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bounds import Bounds, CertificationError
from .rounding import unit_roundoff

Numbers = Union[float, Sequence[float], Tensor]
Radii = Union[float, Tuple[float, ...], Tensor]


def check_eps(eps: Any) -> Radii:
    """Radii as numbers, in units of images in [0, 1].

    Args:
        eps (float | str | Sequence[float | str] | ndarray | Tensor): One or
            more radii; a text is a number or a fraction such as
            ``'8/255'``, which ``--cfg-options`` does not compute.

    Returns:
        float | tuple[float] | Tensor: The same as numbers; a tensor as it
        is.

    Raises:
        ConfigError: If one is no number, negative, above 1 or not finite.
    """
    # Not on a default device, which may be without values ('meta').
    device = eps.device if isinstance(eps, Tensor) else 'cpu'
    radii = eps if isinstance(eps, Tensor) else _radii(eps)
    values = torch.as_tensor(radii, dtype=torch.float64, device=device)
    if bool(((values >= 0) & (values <= 1)).all()):
        return radii
    raise ConfigError(
        'eps is in pixel units of images in [0, 1], so between 0 and 1, but '
        f'got {eps!r}. Write 8/255, not 8; and give the pixel radius, not '
        'eps / std, which is computed from the data preprocessor.')


def eps_tuple(eps: Any) -> Tuple[float, ...]:
    """Radii as a tuple, of which one number is one.

    Args:
        eps (float | str | Sequence[float | str] | ndarray | Tensor): As in
            :func:`check_eps`; also a tensor without dimensions.

    Returns:
        tuple[float]: The radii.

    Raises:
        ConfigError: As in :func:`check_eps`.
    """
    radii = check_eps(eps)
    if isinstance(radii, Tensor):
        radii = radii.tolist()
    one = isinstance(radii, (int, float))
    return tuple(map(float, [radii] if one else radii))


def _radii(eps: Any) -> Union[float, Tuple[float, ...]]:
    if hasattr(eps, 'tolist'):  # numpy's arrays and numbers
        eps = eps.tolist()
    if isinstance(eps, (list, tuple)):
        return tuple(_radii(one) for one in eps)
    try:
        if not isinstance(eps, str):
            return float(eps)
        top, slash, bottom = eps.partition('/')
        return float(top) / (float(bottom) if slash else 1.)
    except (TypeError, ValueError, ZeroDivisionError):
        raise ConfigError('eps is a number such as 0.1, a fraction such as '
                          f"'8/255', or a list of them, but got {eps!r}.")


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
        raise ConfigError(f'std must be above 0, but got {values!r}. Give '
                          'the std that the images are divided by.')
    return found


def per_channel(values: Numbers, x: Tensor) -> Tensor:
    """``values`` as a tensor that broadcasts against the batch ``x``.

    Args:
        values (float | Sequence[float] | Tensor): A number, one number for
            each channel, one for each image or each image and channel (B, 1)
            or (B, C), or anything with the axes of ``x``.
        x (Tensor): Shape (B, C, ...).

    Returns:
        Tensor: On the device and in the dtype of ``x``.

    Raises:
        ConfigError: If there are neither one number nor as many as channels.
    """
    if not isinstance(values, Tensor):
        # Not as_tensor(values) alone, which takes floats as float32.
        values = torch.as_tensor(values, dtype=torch.float64)
    values = values.to(x)
    if values.dim() == 1 and len(values) not in (1, x.shape[1]):
        raise ConfigError(
            'Expected one number, or one per channel of the images, which '
            f'have {x.shape[1]}, but got {len(values)} numbers.')
    if values.dim() in (1, 2):
        return values.reshape(*values.shape, *[1] * (x.dim() - 2))
    return values


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
        ConfigError: For other methods, an eps outside [0, 1] or a std that
            is not positive.
    """
    eps = check_eps(eps)
    radii = torch.as_tensor(eps, dtype=torch.float64) / _channels(std, 'std')
    if method == 'interval':
        return radii
    if method == 'lipschitz':
        return float(radii.max())
    raise ConfigError("method is 'interval' or 'lipschitz', but got "
                      f'{method!r}.')


def widened_eps(eps: Tensor, x: Tensor, program: bool = True) -> Tensor:
    r"""A radius that also covers the rounding of normalisation.

    .. math:: \epsilon' = \epsilon (1 + 4u) + 3 u \max |\hat x|

    which counts the rounding of ``(x - mean) / std`` at the image and of the
    ends of the box; ``program`` counts it at the attacked image too, 5 u.

    Args:
        eps (Tensor): Radius in the units of the network, any shape that
            broadcasts with (B, 1).
        x (Tensor): Normalised images, shape (B, ...).
        program (bool): As in
            :func:`~mmext.models.lipschitz.certificates.rounding_slack`.
            Defaults to True.

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
    eps = per_channel(eps, x)
    lower, upper = x - eps, x + eps
    if low is not None:
        lower = torch.maximum(lower, per_channel(low, x))
    if high is not None:
        upper = torch.minimum(upper, per_channel(high, x))
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
        program (bool): As in
            :func:`~mmext.models.lipschitz.certificates.rounding_slack`.
            Defaults to True.

    Returns:
        Bounds: The box, with x.

    Raises:
        ConfigError: If eps is not in [0, 1].
        CertificationError: If, with ``clamp``, the images are no images in
            [0, 1] under this mean and std.
    """
    eps = check_eps(eps)
    mean, std = _channels(mean, 'mean'), _channels(std, 'std')
    eps = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    radii = eps.reshape(-1, 1) / std.to(x.device)
    if sound:
        radii = widened_eps(radii, x, program)
    if not clamp:
        return eps_box(x, radii)
    low, high = -mean / std, (1. - mean) / std
    slip = 1e-3 * (high - low)  # a thousandth of the range is no rounding
    outside = (x < per_channel(low - slip, x)) | (
        x > per_channel(high + slip, x))
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
