# Copyright (c) mmext contributors. All rights reserved.
"""Which pixels to believe: thresholds on maps of uncertainty."""
from typing import Mapping, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.arguments import as_switch, is_number, is_share
from mmext.utils.user_error import ConfigError

Threshold = Union[float, str, Mapping]
_TINY = 1e-8


def _statistic(values: Tensor, stat: str, q: float) -> Tensor:
    """The order statistic of index ``int(q * n)``, or the mean."""
    if stat == 'mean':
        return values.mean()
    index = min(int(q * values.numel()), values.numel() - 1)
    return values.kthvalue(index + 1).values


def check_threshold(threshold: Threshold) -> Tuple[str, float, bool]:
    """Read the option ``threshold`` of :func:`pseudo_label_mask`.

    Returns:
        tuple: Kind ('quantile', 'mean' or 'fixed'), its number, and whether
        each image has its own.

    Raises:
        ConfigError: If it is none of these, or per_image is no switch.
    """
    if is_number(threshold, 0):
        return 'fixed', float(threshold), False
    given = dict(type=threshold) if isinstance(threshold, str) else \
        dict(threshold) if isinstance(threshold, Mapping) else {}
    kind, per_image = given.pop('type', None), given.pop('per_image', False)
    per_image = as_switch('threshold.per_image', per_image)
    q = given.pop('q', 0.5)
    if kind not in ('quantile', 'mean') or given or not is_share(q):
        raise ConfigError(
            "Expected threshold to be a number of at least 0, 'mean', or "
            "dict(type='quantile', q=0.5, per_image=False) with q in [0, 1], "
            f'but got {threshold!r}.')
    return kind, float(q), per_image


@torch.no_grad()
def pseudo_label_mask(
    uncertainty: Tensor,
    candidates: Tensor,
    threshold: Threshold = dict(type='quantile', q=0.5)
) -> Tuple[Tensor, Tensor]:
    r"""Candidates that the teacher is sure of.

    .. math:: v = sort(u_i : i \in M_0), \quad \tau = v[int(q n)], \quad
              M_1 = M_0 \wedge (u < \tau + 10^{-8})

    in float32, where the addition is lost for :math:`|\tau| \geq 0.25`:
    pixels equal to the threshold then drop out, so a constant map keeps
    nothing or all. An empty mask makes the losses of this package zero.

    Args:
        uncertainty (Tensor): u, (B, 1, H, W) or (B, H, W).
        candidates (Tensor): M_0, bool, of the same shape.
        threshold (dict | str | float): ``dict(type='quantile', q=0.5,
            per_image=False)``, ``'mean'`` or ``dict(type='mean',
            per_image=...)``, or a fixed number. Over the whole batch
            unless ``per_image``. Defaults to the median, as published.

    Returns:
        tuple: The mask, bool, and tau (mean over the images if each has
        its own; 0 without candidates).
    """
    kind, q, per_image = check_threshold(threshold)
    if per_image:
        parts = [
            pseudo_label_mask(u, m, dict(type=kind, q=q))
            for u, m in zip(uncertainty.split(1), candidates.split(1))
        ]
        return (torch.cat([mask for mask, _ in parts]),
                torch.stack([tau for _, tau in parts]).mean())
    uncertainty = uncertainty.float()
    values = uncertainty[candidates]
    if kind == 'fixed':
        tau = uncertainty.new_tensor(q)
    elif values.numel():
        tau = _statistic(values, kind, q)
    else:
        tau = uncertainty.new_tensor(0.)
    return candidates & (uncertainty < tau + _TINY), tau


@torch.no_grad()
def pixel_filter(teacher: Tensor,
                 student: Tensor,
                 size: Optional[Tuple[int, int]] = None,
                 rgb_q: float = 0.5,
                 spike_q: float = 0.5,
                 stat: str = 'quantile') -> Tensor:
    r"""Where the RGB teacher is certain and the spike student is not.

    .. math:: m_i = [\epsilon^{rgb}_i < \tau^{rgb}] \cdot
              [\epsilon^{spk}_i > \tau^{spk}]

    How the paper forms both thresholds is not known; here each is a
    quantile, or the mean, of its map over the batch.

    Args:
        teacher (Tensor): Uncertainty of the teacher, (B, 1, H, W).
        student (Tensor): That of the student, of the same shape.
        size (tuple[int], optional): Height and width of the features; maps
            are averaged to it first. Defaults to None (as they are).
        rgb_q (float): Quantile for the teacher; 1 calls it certain
            everywhere. Defaults to 0.5.
        spike_q (float): Quantile for the student; 0 calls it uncertain
            everywhere. Defaults to 0.5.
        stat (str): 'quantile', or 'mean', which has no use for the two
            numbers. Defaults to 'quantile'.

    Returns:
        Tensor: Bool (B, 1, *size).
    """
    teacher, student = (
        x.float() if size is None or tuple(x.shape[2:]) == tuple(size) else
        F.adaptive_avg_pool2d(x.float(), tuple(size))
        for x in (teacher, student))
    certain = torch.ones_like(teacher, dtype=torch.bool)
    if stat == 'mean' or rgb_q < 1:
        certain = teacher < _statistic(teacher.flatten(), stat, rgb_q)
    uncertain = torch.ones_like(student, dtype=torch.bool)
    if stat == 'mean' or spike_q > 0:
        uncertain = student > _statistic(student.flatten(), stat, spike_q)
    return certain & uncertain


def check_pixel_filter(options: Optional[Mapping]) -> Optional[dict]:
    """Read the option ``fkd.pixel_filter``.

    Raises:
        ConfigError: If a key or a value is not of :func:`pixel_filter`.
    """
    if options is None:
        return None
    given = dict(rgb_q=0.5, spike_q=0.5, stat='quantile')
    mapping = isinstance(options, Mapping)
    unknown = sorted(set(options) - set(given)) if mapping else True
    given.update(options if mapping else {})
    if unknown or given['stat'] not in ('quantile', 'mean') or not all(
            is_share(given[key]) for key in ('rgb_q', 'spike_q')):
        raise ConfigError(
            'Expected fkd.pixel_filter to be None or dict(rgb_q=0.5, '
            "spike_q=0.5, stat='quantile' or 'mean') with quantiles in "
            f'[0, 1], but got {options!r}.')
    return given
