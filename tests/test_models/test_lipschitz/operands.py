# Copyright (c) mmext contributors. All rights reserved.
"""Operands and a plain definition of the distance operator."""
import math

import torch


def rand(*shape, dtype=torch.float64, seed=0, scale=1.):
    generator = torch.Generator().manual_seed(seed)
    x = scale * torch.randn(*shape, generator=generator, dtype=dtype)
    return x.requires_grad_()


def plain(x, w, p):
    """The definition, in one expression."""
    d = (x.unsqueeze(-2) - w).abs()
    return d.amax(-1) if math.isinf(p) else d.pow(p).sum(-1).pow(1 / p)


def gradients(y, *inputs, seed=9):
    g = torch.randn(
        y.shape, generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    return torch.autograd.grad(y, inputs, g)
