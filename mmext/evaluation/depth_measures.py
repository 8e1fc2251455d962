# Copyright (c) mmext contributors. All rights reserved.
"""Measures of depth and of its uncertainty, pixel by pixel and summed."""
from typing import Dict, Optional, Tuple

import numpy as np
from scipy.stats import rankdata

from mmext.utils.depth_crops import crop_box

#: In this order the sums of one image are kept; all over its valid pixels.
SUMS = ('n', 'abs_rel', 'sq_rel', 'square', 'square_log', 'log', 'log10', 'd1',
        'd2', 'd3', 'sig', 'sig_square')
MEASURES = ('abs_rel', 'sq_rel', 'rmse', 'rmse_log', 'log10', 'silog', 'd1',
            'd2', 'd3', 'val_sig')
UNCERTAINTY_MEASURES = ('ause', 'aurg', 'unc_corr')
ALIGNMENTS = (None, 'median', 'scale_shift', 'scale_shift_inverse')


def crop_mask(crop: Optional[str], height: int, width: int) -> np.ndarray:
    """The rectangle that is scored.

    Args:
        crop (str, optional): Of :func:`~mmext.utils.depth_crops.crop_box`.
        height (int): Rows of the image.
        width (int): Columns.

    Returns:
        np.ndarray: (height, width) of bool.

    Raises:
        ConfigError: If the crop is unknown or does not fit the image.
    """
    top, bottom, left, right = crop_box(crop, height, width)
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


def align(pred: np.ndarray, target: np.ndarray,
          how: Optional[str]) -> np.ndarray:
    """Fit a prediction to the truth, for models without metric depth.

    Args:
        pred (np.ndarray): (n, ) predicted depth of the scored pixels.
        target (np.ndarray): (n, ) true depth.
        how (str, optional): None; 'median' multiplies by the ratio of the
            medians; 'scale_shift' is the least-squares ``a pred + b``;
            'scale_shift_inverse' the same of ``1 / depth``.

    Returns:
        np.ndarray: (n, ), not clamped.
    """
    if how is None:
        return pred
    if how == 'median':
        middle = np.median(pred)
        return pred * (np.median(target) / middle) if middle > 0 else pred
    inverse = how == 'scale_shift_inverse'
    x = 1 / np.maximum(pred, 1e-8) if inverse else pred
    y = 1 / target if inverse else target
    spread = x - x.mean()
    energy = float(spread @ spread)
    # A constant prediction: only its level can be fitted.
    scale = float(spread @ (y - y.mean())) / energy if energy > 0 else 0.
    fitted = scale * spread + y.mean()
    return 1 / np.maximum(fitted, 1e-8) if inverse else fitted


def depth_sums(pred: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Sums of the errors of some pixels, in the order of ``SUMS``.

    Args:
        pred (np.ndarray): (n, ) float64, positive.
        target (np.ndarray): (n, ) float64, positive.

    Returns:
        np.ndarray: (12, ) float64. Sums of images may be added.
    """
    error = pred - target
    log = np.log(pred / target)
    ratio = np.maximum(pred / target, target / pred)
    # The authors' loss, BiCross: an offset of 0.1 m under the logarithm.
    sig = np.log((pred + 0.1) / (target + 0.1))
    return np.array([
        len(target),
        np.sum(np.abs(error) / target),
        np.sum(error**2 / target), error @ error, log @ log,
        log.sum(),
        np.abs(log).sum() / np.log(10), (ratio < 1.25).sum(),
        (ratio < 1.25**2).sum(), (ratio < 1.25**3).sum(),
        sig.sum(), sig @ sig
    ])


def measures(sums: np.ndarray) -> Dict[str, float]:
    r"""Measures of the pixels behind the sums.

    With prediction p and truth d: AbsRel = mean :math:`|p-d|/d`, SqRel =
    mean :math:`(p-d)^2/d`, RMSE, RMSE of logarithms, log10 = mean
    :math:`|\log_{10} p - \log_{10} d|`, SILog (KITTI's) = :math:`100
    \sqrt{E[g^2] - E[g]^2}` with :math:`g = \ln p - \ln d`, d1 to d3 = share
    of :math:`\max(p/d, d/p) < 1.25^k`, and val_sig, the authors' validation
    loss :math:`\sqrt{Var(h) + 0.15 E[h]^2}` with :math:`h = \ln(p + 0.1) -
    \ln(d + 0.1)` and the unbiased variance.

    Args:
        sums (np.ndarray): (12, ) of :func:`depth_sums`, of at least one
            pixel.

    Returns:
        dict[str, float]: By the names in ``MEASURES``.
    """
    n = sums[0]
    mean = dict(zip(SUMS, sums / n))
    variance = (sums[11] - sums[10]**2 / n) / max(n - 1, 1)
    values = dict(
        abs_rel=mean['abs_rel'],
        sq_rel=mean['sq_rel'],
        rmse=np.sqrt(mean['square']),
        rmse_log=np.sqrt(mean['square_log']),
        log10=mean['log10'],
        silog=100 * np.sqrt(max(mean['square_log'] - mean['log']**2, 0)),
        d1=mean['d1'],
        d2=mean['d2'],
        d3=mean['d3'],
        val_sig=np.sqrt(max(variance, 0) + 0.15 * mean['sig']**2))
    return {key: float(value) for key, value in values.items()}


def sparsification(error: np.ndarray, order: np.ndarray,
                   steps: int) -> np.ndarray:
    """Mean error of what is left when the first pixels in order are removed.

    Pixels of equal rank are removed in random order: their errors are
    replaced by their mean, so that a constant uncertainty gives a flat
    curve.

    Args:
        error (np.ndarray): (n, ).
        order (np.ndarray): (n, ) what to remove first is largest.
        steps (int): Points of the curve.

    Returns:
        np.ndarray: (steps, ), at removed shares 0, 1 / steps, ...
    """
    _, group = np.unique(order, return_inverse=True)
    group = group.reshape(-1)
    mean = np.bincount(group, error) / np.bincount(group)
    # Ascending: the surest pixels first.
    kept = np.cumsum(mean[np.sort(group)])
    n = len(error)
    counts = np.maximum(n - np.arange(steps) * n // steps, 1)
    return kept[counts - 1] / counts


def uncertainty_measures(pred: np.ndarray, target: np.ndarray,
                         uncertainty: np.ndarray, kind: str,
                         steps: int) -> Tuple[Dict[str, float], np.ndarray]:
    """How well an uncertainty orders pixels by their error.

    - ause: mean distance of the sparsification curve (the error left when
      the most uncertain pixels are removed) from that of an oracle, which
      removes the largest errors first. 0 is perfect.
    - aurg: the same distance from removing at random; positive is better
      than chance.
    - unc_corr: Spearman's rank correlation of uncertainty and error.

    Args:
        pred (np.ndarray): (n, ) predicted depth.
        target (np.ndarray): (n, ) true depth.
        uncertainty (np.ndarray): (n, ).
        kind (str): 'abs_rel' or 'rmse', the error of the curves.
        steps (int): Points of a curve.

    Returns:
        tuple: The measures, and curves (2, steps) of uncertainty and oracle.
    """
    error = np.abs(pred - target) / target if kind == 'abs_rel' else \
        (pred - target)**2
    curves = np.stack([
        sparsification(error, uncertainty, steps),
        sparsification(error, error, steps)
    ])
    if kind == 'rmse':
        curves = np.sqrt(curves)
    ranks = [rankdata(one) for one in (uncertainty, error)]
    ranks = [one - one.mean() for one in ranks]
    energy = np.sqrt((ranks[0] @ ranks[0]) * (ranks[1] @ ranks[1]))
    found = dict(
        ause=float((curves[0] - curves[1]).mean()),
        aurg=float((curves[0, 0] - curves[0]).mean()),
        unc_corr=float(ranks[0] @ ranks[1] / energy) if energy > 0 else 0.)
    return found, curves
