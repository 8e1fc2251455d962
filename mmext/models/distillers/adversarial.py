# Copyright (c) mmext contributors. All rights reserved.
"""The reversal of gradients in front of a domain classifier."""
from typing import Any, Tuple

import torch
from torch import Tensor


class _Reversal(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        ctx.beta = beta
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Tensor, None]:
        return grad * -ctx.beta, None


def gradient_reversal(x: Tensor, beta: float) -> Tensor:
    """The identity, whose gradient is multiplied by ``-beta``.

    What follows is trained to lower a loss, what precedes to raise it. Note
    that a weight of the loss comes on top: with BiCross's 0.1 and ``beta =
    0.01`` the features get -0.001 times the gradient of the bare loss.

    Args:
        x (Tensor): Any shape.
        beta (float): Strength; 0 leaves the features alone, 1 is the
            reversal of Ganin and Lempitsky (arXiv 1409.7495).

    Returns:
        Tensor: ``x``.

    Example:
        >>> domain = classifier(gradient_reversal(features, 0.01))
    """
    return _Reversal.apply(x, beta)
