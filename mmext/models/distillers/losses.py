# Copyright (c) mmext contributors. All rights reserved.
"""Depth, uncertainty and distillation losses, and the masks they share.

All losses are computed in float32 (float64 stays), over the pixels of a
mask that pools the whole batch. With an empty mask each is a zero that keeps
the graph and gives zero gradients. Entries outside the mask may be anything,
NaN as well: they get a gradient of exactly zero.

Source: BiCross (arXiv 2208.12527) and its published code.
"""
from typing import Any, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.depth_crops import crop_box


def range_mask(depth: Tensor,
               min_depth: float = 1e-3,
               max_depth: Optional[float] = 80.) -> Tensor:
    """Where ``min_depth < depth < max_depth``.

    Args:
        depth (Tensor): In metres, any shape.
        min_depth (float): Defaults to 1e-3.
        max_depth (float, optional): None for any finite depth.
            Defaults to 80.

    Returns:
        Tensor: Bool, of the same shape. NaN and infinity are out.
    """
    far = torch.isfinite(depth) if max_depth is None else depth < max_depth
    return (depth > min_depth) & far


def depth_mask(depth: Tensor,
               min_depth: float = 1e-3,
               max_depth: Optional[float] = 80.,
               crop: Optional[str] = 'garg',
               scale_nyu: bool = False) -> Tensor:
    """Where depth is in range and inside a crop.

    Args:
        depth (Tensor): In metres, (..., H, W).
        min_depth (float): See :func:`range_mask`. Defaults to 1e-3.
        max_depth (float, optional): See there. Defaults to 80.
        crop (str, optional): 'garg', 'eigen', 'nyu' or None, see
            :func:`~mmext.utils.depth_crops.crop_box`. Defaults to 'garg'.
        scale_nyu (bool): See there. Defaults to False.

    Returns:
        Tensor: Bool, of the shape of ``depth``.

    Raises:
        ConfigError: If the crop is unknown or does not fit.
    """
    top, bottom, left, right = crop_box(crop, *depth.shape[-2:], scale_nyu)
    inside = torch.zeros(
        depth.shape[-2:], dtype=torch.bool, device=depth.device)
    inside[top:bottom, left:right] = True
    return range_mask(depth, min_depth, max_depth) & inside


def garg_mask(height: int, width: int, device: Any = None) -> Tensor:
    """The rectangle of Garg et al. on a grid of any size.

    Args:
        height (int): Rows of the grid.
        width (int): Columns.
        device (torch.device, optional): Of the mask.

    Returns:
        Tensor: Bool (height, width).
    """
    return depth_mask(torch.ones(height, width, device=device))


def _float(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _mask_like(mask: Optional[Tensor], x: Tensor) -> Tensor:
    if mask is None:
        return torch.ones_like(x, dtype=torch.bool)
    return mask.bool().expand_as(x)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values that are already zero outside the mask."""
    return values.sum() / mask.sum().clamp_min(1)


def sig_loss(pred: Tensor,
             target: Tensor,
             mask: Optional[Tensor] = None,
             eps: float = 0.1,
             mean_weight: float = 0.15) -> Tensor:
    r"""Scale-invariant logarithmic loss.

    .. math:: g_i = \ln(p_i + \epsilon) - \ln(d_i + \epsilon), \quad
              L = \sqrt{Var(g) + 0.15\, mean(g)^2}

    with the unbiased variance. Where the root is of zero (identical inputs)
    the gradient is zero instead of NaN, and of fewer than two pixels, which
    have no variance, the loss is zero. It is not a mean over pixels: its
    value depends on how a batch is composed, and with several processes
    each has its own.

    Args:
        pred (Tensor): In metres, above ``-eps``.
        target (Tensor): In metres, of the same shape.
        mask (Tensor, optional): Bool. None takes everything.
        eps (float): Added to both before the logarithm. Defaults to 0.1.
        mean_weight (float): 1 is the root of the mean square, 0 fully
            invariant to scale. Defaults to 0.15.

    Returns:
        Tensor: A scalar.
    """
    mask = _mask_like(mask, pred)
    pred, target = (_float(x).masked_fill(~mask, 1.) for x in (pred, target))
    g = torch.log(pred + eps) - torch.log(target + eps)
    count = mask.sum()
    mean = g.sum() / count.clamp_min(1)
    centred = (g - mean).masked_fill(~mask, 0.)
    variance = centred.square().sum() / (count - 1).clamp_min(1)
    square = variance + mean_weight * mean.square()
    # NaN stays NaN, so that a diverged net is seen
    usable = (count > 1) & (square != 0)
    return torch.where(usable, square, 1.).sqrt() * usable


def ssi_terms(pred: Tensor,
              target: Tensor,
              mask: Optional[Tensor] = None,
              scales: int = 4,
              reduction: str = 'batch') -> Dict[str, Any]:
    r"""The parts of :func:`ssi_loss`.

    Args:
        pred (Tensor): (B, H, W) or (B, 1, H, W).
        target (Tensor): Of the same shape.
        mask (Tensor, optional): Bool. Defaults to ``target > 0``.
        scales (int): Strides 1, 2, 4, ... of the gradient term.
            Defaults to 4.
        reduction (str): 'batch' divides sums by the pixels of the batch,
            'image' each image's by its own and averages. Defaults to
            'batch'.

    Returns:
        dict: ``scale`` and ``shift`` (B, ), ``aligned`` (B, H, W), ``data``
        and ``gradients``, a list of one scalar for each stride.
    """
    pred, target = (
        _float(x).reshape(-1, *x.shape[-2:]) for x in (pred, target))
    mask = target > 0 if mask is None else mask.bool().reshape(target.shape)
    pred, target = (x.masked_fill(~mask, 0.) for x in (pred, target))
    scale, shift = _least_squares(pred, target, mask)
    aligned = scale[:, None, None] * pred + shift[:, None, None]
    error = (aligned - target).masked_fill(~mask, 0.)
    data = _reduce(error.square(), 2 * mask.sum((1, 2)), reduction)
    gradients = []
    for k in range(scales):
        step = slice(None, None, 2**k)
        gradients.append(
            _gradient_term(error[:, step, step], mask[:, step, step],
                           reduction))
    return dict(
        scale=scale,
        shift=shift,
        aligned=aligned,
        data=data,
        gradients=gradients)


def _least_squares(pred: Tensor, target: Tensor, mask: Tensor) -> tuple:
    """Scale and shift of each image; both 0 where pred is constant.

    About the means, as sums of raw squares cancel in float32.
    """
    count = mask.sum((1, 2)).clamp_min(1)
    means = [x.sum((1, 2)) / count for x in (pred, target)]
    p, t = ((x - mean[:, None, None]).masked_fill(~mask, 0.)
            for x, mean in zip((pred, target), means))
    variance = p.square().sum((1, 2))
    varies = variance > 1e-12 * pred.square().sum((1, 2))
    scale = (p * t).sum((1, 2)) / torch.where(varies, variance, 1.) * varies
    return scale, (means[1] - scale * means[0]) * varies


def _gradient_term(error: Tensor, mask: Tensor, reduction: str) -> Tensor:
    total = error.new_zeros(len(error))
    for dim in (1, 2):
        size = error.size(dim) - 1
        if size < 1:
            continue
        change = error.narrow(dim, 1, size) - error.narrow(dim, 0, size)
        both = mask.narrow(dim, 1, size) & mask.narrow(dim, 0, size)
        total = total + (change.abs() * both).sum((1, 2))
    return _reduce(total[:, None, None], mask.sum((1, 2)), reduction)


def _reduce(values: Tensor, count: Tensor, reduction: str) -> Tensor:
    if reduction == 'batch':
        return values.sum() / count.sum().clamp_min(1)
    if reduction == 'image':
        return (values.sum((1, 2)) / count.clamp_min(1)).mean()
    raise ValueError("Expected reduction to be 'batch' or 'image', but got "
                     f'{reduction!r}.')


def ssi_loss(pred: Tensor,
             target: Tensor,
             mask: Optional[Tensor] = None,
             alpha: float = 0.5,
             scales: int = 4,
             reduction: str = 'batch') -> Tensor:
    r"""Scale- and shift-invariant loss of MiDaS (arXiv 1907.01341).

    .. math:: \frac{1}{2M} \sum_i (s p_i + t - d_i)^2 + \alpha \sum_k
              \frac{1}{M_k} \sum_i |\nabla_x R_i| + |\nabla_y R_i|

    with the least-squares scale s and shift t of each image (gradients flow
    through both) and the residual R at strides 1, 2, 4, 8. It aligns what it
    is given: give depth to align depth, inverse depth to align that.

    Args:
        pred (Tensor): (B, H, W) or (B, 1, H, W).
        target (Tensor): Of the same shape.
        mask (Tensor, optional): Bool. Defaults to ``target > 0``.
        alpha (float): Weight of the gradient term. Defaults to 0.5.
        scales (int): How many strides. Defaults to 4.
        reduction (str): 'batch' or 'image', see :func:`ssi_terms`.

    Returns:
        Tensor: A scalar.
    """
    terms = ssi_terms(pred, target, mask, scales, reduction)
    return terms['data'] + alpha * sum(terms['gradients'])


def uncertainty_loss(uncertainty: Tensor,
                     pred: Tensor,
                     target: Tensor,
                     mask: Optional[Tensor] = None,
                     mode: str = 'l1',
                     detach_target: bool = False) -> Tensor:
    r"""Regression of the relative depth error.

    .. math:: e_i = clamp(|p_i - d_i| / d_i, 0, 1), \quad
              L = mean |u_i - e_i|

    ``'l2'`` squares the difference; ``'l1log'`` is the mean of
    :math:`|p_i - d_i| / u_i + \ln u_i`, with the absolute error and u not
    below 1e-6, where it has no gradient: start with u above 0. By default, as
    published, gradients reach the prediction through e.

    Args:
        uncertainty (Tensor): u, any shape.
        pred (Tensor): p in metres, of the same shape.
        target (Tensor): d in metres, of the same shape.
        mask (Tensor, optional): Bool. None takes everything.
        mode (str): 'l1', 'l2' or 'l1log'. Defaults to 'l1'.
        detach_target (bool): Keep gradients from the prediction.
            Defaults to False.

    Returns:
        Tensor: A scalar.
    """
    mask = _mask_like(mask, uncertainty)
    pred, target, uncertainty = (
        _float(x).masked_fill(~mask, 1.)
        for x in (pred.detach() if detach_target else pred, target,
                  uncertainty))
    error = (pred - target).abs()
    if mode == 'l1log':
        uncertainty = uncertainty.clamp_min(1e-6)
        values = error / uncertainty + uncertainty.log()
    else:
        difference = uncertainty - (error / target).clamp(0, 1)
        if mode == 'l1':
            values = difference.abs()
        elif mode == 'l2':
            values = difference.square()
        else:
            raise ValueError("Expected mode to be 'l1', 'l2' or 'l1log', but "
                             f'got {mode!r}.')
    return _masked_mean(values.masked_fill(~mask, 0.), mask)


def contrastive_loss(teacher: Tensor,
                     student: Tensor,
                     normalize: bool = False,
                     temperature: float = 1.,
                     symmetric: bool = False) -> Tensor:
    r"""Each teacher's embedding shall find its student's among the batch.

    .. math:: L = -\frac{1}{n} \sum_i \log softmax_j(A_i \cdot B_j)[i]

    Published: raw products, no temperature, one direction. A batch of one
    gives 0.

    Args:
        teacher (Tensor): A, (n, D).
        student (Tensor): B, (n, D).
        normalize (bool): Compare directions. Defaults to False.
        temperature (float): Divides the products. Defaults to 1.
        symmetric (bool): Average with the other direction.
            Defaults to False.

    Returns:
        Tensor: A scalar.
    """
    # products are unbounded: float16 would overflow
    with torch.autocast(teacher.device.type, enabled=False):
        teacher, student = _float(teacher), _float(student)
        if normalize:
            teacher, student = (
                F.normalize(x, dim=1) for x in (teacher, student))
        logits = teacher @ student.t() / temperature
        labels = torch.arange(len(logits), device=logits.device)
        loss = F.cross_entropy(logits, labels)
        if symmetric:
            loss = (loss + F.cross_entropy(logits.t(), labels)) / 2
    return loss


def masked_feature_loss(teacher: Tensor,
                        student: Tensor,
                        mask: Optional[Tensor] = None) -> Tensor:
    r"""Mean squared difference of features, at some pixels.

    .. math:: L = \frac{\sum_i m_i \|F^T_i - F^S_i\|^2}
              {C \max(\sum_i m_i, 1)}

    Args:
        teacher (Tensor): (B, C, H, W); gradients reach it if it has any.
        student (Tensor): (B, C, H, W).
        mask (Tensor, optional): Bool (B, 1, H, W). None takes everything.

    Returns:
        Tensor: A scalar.
    """
    square = (_float(teacher) - _float(student)).square()
    if mask is None:
        return square.mean()
    mask = mask.bool()
    square = square.masked_fill(~mask, 0.)
    return square.sum() / (square.size(1) * mask.sum().clamp_min(1))
