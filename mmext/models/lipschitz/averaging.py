# Copyright (c) mmext contributors. All rights reserved.
"""Averages of distance nets: decay of the moving one, means that fit it.

A distance net with averaged weights is a distance net, so that at p = inf it
is 1-Lipschitz whatever the average. Its running means belong to the weights
that they were gathered with; :func:`recalibrate_mean_shift` gathers new ones.
"""
import math
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple

import torch
from torch import nn

from mmext.utils.user_error import ConfigError
from .layers import MeanShift
from .p_norm import p_norm


def warmup_decay(decay: float, warmup: Optional[str], epoch: int,
                 iteration: int) -> float:
    r"""Decay of the moving average at one step (arXiv:2107.00230).

    .. math:: \alpha = \min(1 - \tfrac1{u+1}, \alpha_{max})

    Args:
        decay (float): The largest decay, the weight that the average keeps.
        warmup (str, optional): What u counts: ``'epoch'`` (as published: the
            average equals the live weights during the first epoch),
            ``'iter'``, or None for the largest decay from the start.
        epoch (int): Epochs that are over, from 0.
        iteration (int): Iterations that are over, from 0.

    Returns:
        float: alpha.

    Raises:
        ConfigError: If ``warmup`` is another word.
    """
    if warmup is None:
        return decay
    if warmup not in ('epoch', 'iter'):
        raise ConfigError("Expected warmup to be 'epoch', 'iter' or None for "
                          f'no warm-up, but got {warmup!r}.')
    step = epoch if warmup == 'epoch' else iteration
    return min(1 - 1 / (step + 1), decay)


@contextmanager
def _gathering(model: nn.Module) -> Iterator[List[MeanShift]]:
    """Everything in evaluation but the mean shifts, which gather."""
    modes: List[Tuple[nn.Module,
                      bool]] = [(m, m.training) for m in model.modules()]
    shifts = [m for m in model.modules() if isinstance(m, MeanShift)]
    settings = [(m.momentum, m.sync) for m in shifts]
    model.eval()
    for shift in shifts:
        shift.train()
        # Of the batches given here: other processes, which may not take
        # part, are not waited for.
        shift.sync = False
    try:
        yield shifts
    finally:
        for module, training in modes:
            module.training = training
        for shift, (momentum, sync) in zip(shifts, settings):
            shift.momentum, shift.sync = momentum, sync


@torch.no_grad()
def recalibrate_mean_shift(model: nn.Module,
                           batches: Iterable[Any],
                           forward: Optional[Callable[[nn.Module, Any],
                                                      Any]] = None,
                           size: Callable[[Any], int] = len,
                           p: float = math.inf) -> int:
    r"""Gather the running means of a distance net anew.

    Every mean becomes the average of the batch means over all images,

    .. math:: \mu_c = \frac{\sum_i B_i m_c^{(i)}}{\sum_i B_i}

    where each layer sees inputs that were shifted by the means of their own
    batch, as in training.

    Args:
        model (nn.Module): The net; only its running means change.
        batches (Iterable): Training batches, at least one.
        forward (Callable, optional): ``forward(model, batch)`` runs a batch.
            Defaults to None, ``model(batch)``.
        size (Callable): Number of images of a batch. Defaults to ``len``.
        p (float): Exponent to gather at. Defaults to inf.

    Returns:
        int: Number of images used; 0 if the model has no mean shift.

    Raises:
        ConfigError: If there is no image.

    Example:
        >>> recalibrate_mean_shift(net, [images[:512], images[512:]])
    """
    total = 0
    with _gathering(model) as shifts, p_norm(model, p):
        if not shifts:
            return 0
        for batch in batches:
            count = size(batch)
            if not count:
                continue
            total += count
            for shift in shifts:
                shift.momentum = count / total
            if forward is None:
                model(batch)
            else:
                forward(model, batch)
    if not total:
        raise ConfigError('There is no image to gather running means from: '
                          'expected at least one batch.')
    return total
