# Copyright (c) mmext contributors. All rights reserved.
"""Ties of an adapting model to its source: restore and confidence gate.

Both come from CoTTA (arXiv 2203.13591) and are used by SVDP unchanged.
"""
from typing import Callable, Dict, Optional

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError


@torch.no_grad()
def stochastic_restore(model: nn.Module,
                       source: Dict[str, Tensor],
                       p: float,
                       rng: RandomSource,
                       skip: Optional[Callable[[str], bool]] = None) -> int:
    r"""Reset each scalar parameter to its source value with probability p.

    .. math:: \theta \leftarrow b\,\theta_0 + (1-b)\,\theta,\quad
              b \sim \mathrm{Bernoulli}(p)

    Args:
        model (nn.Module): The student, changed in place.
        source (dict[str, Tensor]): Source parameters by name.
        p (float): Probability, in [0, 1].
        rng (RandomSource): Source of the draws.
        skip (Callable, optional): Names for which it is true keep their
            values, such as the prompt. Defaults to None.

    Returns:
        int: The number of scalars that were restored.
    """
    if not 0 <= p <= 1:
        raise ConfigError(f'restore_prob: expected in [0, 1], but got {p}.')
    restored = 0
    for name, param in model.named_parameters():
        if skip is not None and skip(name):
            continue
        if _wants_masks(param.device):
            mask = rng.bernoulli_mask(name, param.shape, p, param.device)
            origin = source[name].to(param.device, param.dtype)
            param.copy_(torch.where(mask, origin, param))
            restored += mask.sum()
            continue
        index = rng.bernoulli_indices(name, param.numel(), p, param.device)
        if index.numel():
            origin = source[name].to(param.device, param.dtype)
            _put(param, index, origin.take(index))
            restored += index.numel()
    return int(restored)


def _wants_masks(device: torch.device) -> bool:
    # How many indices there are is known to the device alone, which the host
    # would wait for at every parameter. A CPU saves most of the drawing.
    return device.type == 'cuda'


def _put(param: Tensor, index: Tensor, values: Tensor) -> None:
    """``param.put_(index, values)``, which has no deterministic form."""
    if param.is_contiguous():
        param.view(-1).index_put_((index, ), values)
    else:
        param.index_put_(torch.unravel_index(index, param.shape), values)


def anchor_gate(single: Tensor, average: Tensor, confidence: Tensor,
                threshold: Optional[float]) -> Tensor:
    """Labels of one view where the source model is sure, else the average's.

    ``Y = Y_one where a > threshold else Y_avg`` (arXiv:2203.13591).

    Args:
        single (Tensor): Labels of the reference view, shape (H, W).
        average (Tensor): Labels of the averaged views, shape (H, W).
        confidence (Tensor): Largest source probability, shape (H, W).
        threshold (float, optional): The bound; None always averages.

    Returns:
        Tensor: Labels of shape (H, W).
    """
    if threshold is None:
        return average
    return torch.where(confidence > threshold, single, average)
