# Copyright (c) mmext contributors. All rights reserved.
"""Equations of the mixture of sparse adapters (MoSA, arXiv 2312.02923).

Pure tensor functions: the partition of a tensor into modules, the three ways
to merge them, and the terms that two passes over one batch add to the loss.
"""
import hashlib
import math
from typing import List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError

GRANULARITIES = ('element', 'row', 'column')
MERGE_MODES = ('mean', 'union', 'official_joint')


def tensor_seed(seed: int, name: str) -> int:
    """A seed for one tensor, so that adding a layer leaves others alone.

    Args:
        seed (int): Seed of the model's masks.
        name (str): Name of the tensor.

    Returns:
        int: Non-negative, below 2**63.
    """
    digest = hashlib.sha256(f'{seed}/{name}'.encode()).digest()
    return int.from_bytes(digest[:8], 'little') >> 1


def draw_scores(shape: Sequence[int], seed: int, name: str) -> Tensor:
    """Uniform scores of one tensor, the same on every device and rank.

    Args:
        shape (Sequence[int]): Shape of the tensor.
        seed (int): Seed of the model's masks.
        name (str): Name of the tensor.

    Returns:
        Tensor: Float64 scores in [0, 1) on the CPU.
    """
    generator = torch.Generator().manual_seed(tensor_seed(seed, name))
    return torch.rand(tuple(shape), generator=generator, dtype=torch.float64)


# What an int16 holds.
_MOST = 32767


def check_partition(shape: Sequence[int], num_modules: int, granularity: str,
                    name: str) -> None:
    """Refuse a partition in which some module would own nothing.

    Raises:
        ConfigError: If ``granularity`` is unknown, or there are more modules
            than elements to share out.
    """
    if granularity not in GRANULARITIES:
        raise ConfigError(
            f'granularity is one of {", ".join(map(repr, GRANULARITIES))}, '
            f'but got {granularity!r}.')
    if len(shape) == 1 or granularity == 'element':
        size, what = math.prod(shape), 'elements'
    elif granularity == 'row':
        size, what = shape[1], 'elements in each row'
    else:
        size, what = shape[0], 'elements in each column'
    if num_modules > _MOST:
        raise ConfigError(f'num_modules={num_modules} is more than the '
                          f'{_MOST} that owners are numbered for.')
    if num_modules > size:
        raise ConfigError(
            f'num_modules={num_modules} is more than the {size} {what} of '
            f'{name} (shape {tuple(shape)}), so some module would own '
            f'nothing. Use at most {size} modules here, a larger bottleneck, '
            "granularity='element' or split_bias=False.")


def partition(scores: Tensor,
              num_modules: int,
              granularity: str = 'element') -> Tensor:
    r"""Give every element to one of N modules by the rank of its score.

    Module ``i`` owns the elements whose ascending rank lies in

    .. math:: [\lfloor i n / N \rfloor, \lfloor (i + 1) n / N \rfloor)

    (arXiv:2312.02923; the cut points are whole numbers here). Ties are
    ordered by position, so the result is a partition for any scores.

    Args:
        scores (Tensor): Scores of the elements, any shape.
        num_modules (int): N.
        granularity (str): Ranks are taken over the whole tensor
            (``'element'``), inside each row (``'row'``) or inside each
            column (``'column'``) of a matrix. Defaults to ``'element'``.

    Returns:
        Tensor: Owners in ``0..N-1``, of the shape of ``scores``; uint8 up to
        256 modules, else int16.
    """
    if granularity == 'element' or scores.dim() == 1:
        table, axis = scores.reshape(-1), 0
    else:
        table, axis = scores, 1 if granularity == 'row' else 0
    order = table.argsort(dim=axis, stable=True)
    size = table.size(axis)
    positions = torch.arange(size, device=scores.device)
    if table.dim() == 2:
        positions = positions.unsqueeze(1 - axis).expand_as(order)
    ranks = torch.empty_like(order).scatter_(axis, order, positions)
    cuts = torch.tensor(
        [size * i // num_modules for i in range(1, num_modules)],
        device=scores.device)
    owner = torch.bucketize(ranks, cuts, right=True)
    dtype = torch.uint8 if num_modules <= 256 else torch.int16
    return owner.to(dtype).reshape(scores.shape)


def module_masks(owner: Tensor, num_modules: int) -> Tensor:
    """The masks of all modules, bool, shape (N, *owner.shape)."""
    index = torch.arange(num_modules, device=owner.device)
    return owner.unsqueeze(0) == index.view(-1, *[1] * owner.dim())


def sparse_mask(scores: Tensor, num_modules: int) -> Tensor:
    """The mask of the sparse single-adapter baseline (arXiv:2312.02923).

    It keeps the ``n - int((1 - 1/N) n)`` elements with the largest scores,
    the size of one of N modules.

    Args:
        scores (Tensor): Scores of the elements.
        num_modules (int): N, so a density of about 1/N.

    Returns:
        Tensor: Bool mask of the same shape.
    """
    flat = scores.reshape(-1)
    dropped = int((1 - 1 / num_modules) * flat.numel())
    mask = torch.ones_like(flat, dtype=torch.bool)
    mask[flat.argsort(stable=True)[:dropped]] = False
    return mask.view_as(scores)


def check_merge_mode(mode: str) -> str:
    """Return ``mode`` if it is one of :data:`MERGE_MODES`, else raise."""
    if mode not in MERGE_MODES:
        known = ', '.join(map(repr, MERGE_MODES))
        raise ConfigError(f'merge is one of {known}, but got {mode!r}.')
    return mode


def merge_compact(values: Tensor, init: Optional[Tensor], num_modules: int,
                  mode: str) -> Tensor:
    """Merge modules that share one tensor, each owning its elements.

    Args:
        values (Tensor): The owners' values.
        init (Tensor, optional): Values that the other modules hold, the
            tensor before training. None stands for zeros.
        num_modules (int): N.
        mode (str): See :func:`merge_modules`.

    Returns:
        Tensor: Merged tensor, of the shape of ``values``.
    """
    if mode == 'union':
        return values
    if mode == 'mean' and init is not None:
        return init + (values - init) / num_modules
    return values / num_modules


def merge_modules(values: Sequence[Tensor], owner: Optional[Tensor],
                  mode: str) -> Tensor:
    r"""Merge modules that are stored one by one (arXiv:2312.02923).

    .. math::
        \text{mean: } \tfrac1N \sum_k \theta_k \quad
        \text{union: } \sum_k M_k \odot \theta_k \quad
        \text{official\_joint: } \tfrac1N \sum_k M_k \odot \theta_k

    A tensor that is not split, such as a bias that every module holds in
    full, is averaged by the first two, and ``'official_joint'`` takes the
    last module's divided by N, as the authors' code does.

    Args:
        values (Sequence[Tensor]): The N modules.
        owner (Tensor, optional): Owners of the elements; None if unsplit.
        mode (str): One of :data:`MERGE_MODES`.

    Returns:
        Tensor: Merged tensor.
    """
    stack = torch.stack(tuple(values))
    if owner is None:
        return stack[-1] / len(stack) if mode == 'official_joint' else \
            stack.mean(0)
    if mode == 'mean':
        return stack.mean(0)
    union = stack.gather(0, owner.long().unsqueeze(0))[0]
    return union if mode == 'union' else union / len(stack)


def symmetric_kl(logits1: Tensor,
                 logits2: Tensor,
                 independent: bool = False) -> Tensor:
    r"""The consistency term of two passes (arXiv:2312.02923).

    .. math:: \tfrac12 [KL(sg(p_2) \| p_1) + KL(sg(p_1) \| p_2)]

    Summed over classes, averaged over everything else: images, and pixels
    if there are any. Half-precision logits are evaluated in float32.

    Classes that do not exclude each other have a probability of their own,
    :math:`p = sigmoid(z)`. For them, beyond the paper, :math:`KL` is that
    of independent Bernoulli variables,

    .. math:: KL(q \| p) = q \log \tfrac{q}{p} +
        (1 - q) \log \tfrac{1 - q}{1 - p}

    Args:
        logits1 (Tensor): First pass, classes on axis 1.
        logits2 (Tensor): Second pass.
        independent (bool): Whether each channel is a yes or no of its own
            (sigmoid) instead of one of several exclusive classes (softmax).
            Defaults to False.

    Returns:
        Tensor: Scalar.
    """
    if logits1.dtype in (torch.float16, torch.bfloat16):
        logits1, logits2 = logits1.float(), logits2.float()
    log1, log2 = (
        _log_yes_no(z) if independent else z.log_softmax(1)
        for z in (logits1, logits2))
    options = dict(reduction='none', log_target=True)
    divergence = F.kl_div(log1, log2.detach(), **options) + F.kl_div(
        log2, log1.detach(), **options)
    return 0.5 * divergence.sum(1).mean()


def _log_yes_no(logits: Tensor) -> Tensor:
    """Log probabilities of yes, then of no, for each channel."""
    return torch.cat([F.logsigmoid(logits), F.logsigmoid(-logits)], 1)


def deep_alignment(hidden1: List[Tensor], hidden2: List[Tensor],
                   num_blocks: int) -> Tensor:
    r"""The deep term: how far the block outputs of two passes are apart.

    .. math:: \frac1L \sum_l MSE(h^1_l, h^2_l)

    Both passes receive gradients. The sum runs over the given blocks, the
    first six as published, and is divided by the number of all blocks.

    Args:
        hidden1 (list[Tensor]): Block outputs of the first pass.
        hidden2 (list[Tensor]): Of the second pass.
        num_blocks (int): L, all blocks of the backbone.

    Returns:
        Tensor: Scalar.
    """
    terms = [F.mse_loss(a, b) for a, b in zip(hidden1, hidden2)]
    return torch.stack(terms).sum() / num_blocks
