# Copyright (c) mmext contributors. All rights reserved.
"""Monte-Carlo dropout before a dense head's classifier."""
from typing import Any, Callable, Iterable, Iterator, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.random import RandomSource
from mmext.utils.user_error import ConfigError


def variance_over(maps: Iterable[Tensor]) -> Tuple[Tensor, Tensor]:
    """Mean and population variance over a stream of equal-sized tensors.

    Welford's recurrence keeps one mean and one sum of squares, so ten
    full-resolution maps need the memory of two, and identical maps give a
    variance of exactly zero.

    Args:
        maps (Iterable[Tensor]): Tensors of one shape.

    Returns:
        tuple[Tensor, Tensor]: Mean and variance.

    Raises:
        ValueError: If the stream is empty.
    """
    mean = square = None
    count = 0
    for value in maps:
        count += 1
        if mean is None:
            mean, square = value.clone(), torch.zeros_like(value)
            continue
        delta = value - mean
        mean.add_(delta, alpha=1. / count)
        square.addcmul_(delta, value - mean)
    if mean is None:
        raise ValueError('expected at least one map, but got none.')
    return mean, square.div_(count)


def uncertainty_map(probabilities: Iterable[Tensor]) -> Tensor:
    r"""Uncertainty of a dense classifier from repeated softmax maps.

    .. math:: U(j, l) = \sum_c \mathrm{Var}_m\, p_m(c, j, l)

    with the population variance (arXiv:2303.09792). ``0 <= U <= 1 - 1/C``.

    Args:
        probabilities (Iterable[Tensor]): Maps of shape (..., C, H, W).

    Returns:
        Tensor: Map of shape (..., H, W).
    """
    return variance_over(probabilities)[1].sum(-3)


def classifier_input(head: nn.Module,
                     run: Callable[[], Any]) -> Tuple[nn.Module, Any, bool]:
    """Find the last convolution or linear layer that a head executes.

    Args:
        head (nn.Module): The head, whose sub-modules are watched.
        run (Callable): Runs the head and returns its output.

    Returns:
        tuple: That layer, its input, and whether its output is the output of
        the head (then passes need not repeat the rest of the head).

    Raises:
        ConfigError: If the head executes no such layer.
    """
    last = {}

    def watch(module, args, output):
        last.update(module=module, input=args[0], output=output)

    handles = [
        m.register_forward_hook(watch) for m in head.modules()
        if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    try:
        output = run()
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ConfigError(
            f'{type(head).__name__} executed no Conv2d or Linear layer, so '
            'there is no classifier to put dropout before. Use a head that '
            'ends in one, or a method without uncertainty, such as '
            'mmext.CoTTA.')
    return last['module'], last['input'], last['output'] is output


@torch.no_grad()
def mc_dropout_passes(head: nn.Module, run: Callable[[], Any], passes: int,
                      p: float, rng: RandomSource) -> Iterator[Any]:
    """Outputs of a head under element-wise dropout before its classifier.

    The head's own modules, dropout included, are left exactly as they are:
    the mask multiplies the classifier's input, kept values by ``1/(1-p)``
    (arXiv:2303.09792). A head without dropout therefore works as well. What
    precedes the classifier runs once, not once per pass.

    Args:
        head (nn.Module): The head, in eval mode.
        run (Callable): Runs it on fixed features and returns its output.
        passes (int): Number of outputs to yield.
        p (float): Probability of dropping a value, in [0, 1).
        rng (RandomSource): Source of the masks.

    Yields:
        Any: The output of one pass.
    """
    if not 0 <= p < 1:
        raise ConfigError(f'expected a drop probability in [0, 1), got {p}.')
    layer, feature, is_output = classifier_input(head, run)

    def dropped(x: Tensor) -> Tensor:
        return x * rng.keep_mask(x.shape, 1 - p, x).div_(1 - p)

    for _ in range(passes):
        if is_output:
            yield layer(dropped(feature))
            continue
        handle = layer.register_forward_pre_hook(lambda module, args:
                                                 (dropped(args[0]), *args[1:]))
        try:
            yield run()
        finally:
            handle.remove()
