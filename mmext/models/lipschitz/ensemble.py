# Copyright (c) mmext contributors. All rights reserved.
"""Sound certificates of ensembles (docs/en/advanced_guides/
certified_ensembles.md has the proofs of T1 to T4).

Members are stacked in the first dimension: logits, residuals and decisions
have shapes (K, B, C), (K, B, C) and (K, B). A residual is an upper bound of
:math:`z_c - z_y` over the ball, 0 at the label.
"""
from typing import List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from mmext.utils.user_error import ConfigError

Weights = Union[Sequence[float], Tensor]


def simplex_weights(weights: Optional[Weights], count: int) -> Tensor:
    r"""Weights of ``count`` members with sum 1.

    Averages of 1-Lipschitz networks are 1-Lipschitz only if the weights are
    not negative and sum to 1 (T1), so other sums are divided out.

    Args:
        weights (Sequence[float] | Tensor, optional): None means equal.
        count (int): K.

    Returns:
        Tensor: Shape (K, ), float64, on the CPU.

    Raises:
        ConfigError: If a weight is negative or not finite, all are 0, or
            their number is not K.
    """
    if weights is None:
        return torch.full((count, ), 1 / count, dtype=torch.float64)
    given = torch.as_tensor(weights, dtype=torch.float64).detach().cpu()
    if given.shape != (count, ):
        raise ConfigError(
            f'Expected a weight for each of the {count} members, but got the '
            f'shape {tuple(given.shape)}. Give as many weights as members, '
            'or None for equal ones.')
    total = given.sum()
    if not given.isfinite().all() or (given < 0).any() or total <= 0:
        raise ConfigError(
            'Weights of an ensemble are finite and not negative, and at least '
            f'one is positive, but got {given.tolist()}. A negative weight '
            'would void the certificate; leave such a member out.')
    return given / total


def average(values: Tensor, weights: Optional[Weights] = None) -> Tensor:
    r"""Weighted mean over the members, in float64.

    .. math:: F = \sum_k a_k f^{(k)}, \quad a_k \ge 0, \ \sum_k a_k = 1

    For logits this is the ensemble; for residuals or radii an upper or lower
    bound of the ensemble's (T2, T3).

    Args:
        values (Tensor): Shape (K, ...).
        weights (Sequence[float] | Tensor, optional): Shape (K, ); None means
            equal.

    Returns:
        Tensor: Shape (...), float64.
    """
    a = simplex_weights(weights, len(values)).to(values.device)
    # One member is itself, without a rounding; zero weights do not let an
    # infinite bound of a member in.
    used = a > 0
    values, a = values[used].double(), a[used]
    if len(a) == 1:
        return values[0]
    return (a.reshape(-1, *[1] * (values.dim() - 1)) * values).sum(0)


def unanimous(certified: Tensor) -> Tensor:
    """Whether every member is certified for the label.

    Then the average is, too (T2), whatever the weights.

    Args:
        certified (Tensor): bool, shape (K, ...), all for the same label.

    Returns:
        Tensor: bool, shape (...).
    """
    return certified.all(0)


def majority(certified: Tensor) -> Tensor:
    """Whether the hard vote of the members is certified (T4).

    More members are certified for the label than all others together, so
    that no vote of the others can overrule them. This is a certificate of
    the *vote*, not of the averaged logits.

    Args:
        certified (Tensor): bool, shape (K, ...), all for the same label.

    Returns:
        Tensor: bool, shape (...).
    """
    return 2 * certified.sum(0) > len(certified)


def vote(logits: Tensor) -> Tensor:
    """The class that most members predict; among equals the smallest.

    Args:
        logits (Tensor): Shape (K, B, C).

    Returns:
        Tensor: int64, shape (B, ).
    """
    members = logits.argmax(2)
    counts = torch.zeros_like(logits[0], dtype=torch.int64)
    ones = torch.ones_like(members.T)
    return counts.scatter_add(1, members.T, ones).argmax(1)


def soft_vote_bound(lower: Tensor,
                    upper: Tensor,
                    labels: Tensor,
                    weights: Optional[Weights] = None) -> Tensor:
    r"""Upper bound of how far a class leads in the average probability.

    With member bounds :math:`l_c \le f_c - f_y \le u_c` over the ball,

    .. math::
        p_y \ge \frac{1}{1 + \sum_c e^{u_c}}, \qquad
        p_c \le \frac{1}{1 + e^{-u_c} (1 + \sum_{j \ne c, y} e^{l_j})}

    The softmax of the residuals themselves bounds nothing: the probability
    of c also rises when the *other* classes fall.

    Args:
        lower (Tensor): l, shape (K, B, C); ignored at the label.
        upper (Tensor): u, shape (K, B, C); ignored at the label.
        labels (Tensor): y, shape (B, ).
        weights (Sequence[float] | Tensor, optional): Shape (K, ).

    Returns:
        Tensor: Bounds of :math:`p_c - p_y`, shape (B, C), float64, 0 at the
        label. The averaged softmax is certified where all others are
        negative.
    """
    index = labels.expand(len(upper), -1)[..., None]
    low = lower.double().scatter(2, index, float('-inf'))
    up = upper.double().scatter(2, index, float('-inf'))
    # In logarithms, so that wide bounds do not overflow.
    zero = torch.zeros_like(up[..., :1])
    right = (-torch.cat([zero, up], 2).logsumexp(2)).exp()
    others = low[:, :, None, :].expand(-1, -1, low.shape[2], -1)
    own = torch.eye(low.shape[2], dtype=torch.bool, device=low.device)
    others = others.masked_fill(own, float('-inf'))
    rest = torch.cat(
        [zero[..., None].expand(-1, -1, low.shape[2], -1), others],
        3).logsumexp(3)
    wrong = torch.sigmoid(up - rest)
    bound = average(wrong - right[..., None], weights)
    return bound.scatter(1, labels[:, None], 0.)


class FittedWeights(NamedTuple):
    """What :func:`fit_weights` found on the images it was given."""

    weights: Tensor
    """Shape (K, ), float64, sum 1."""
    certified: float
    """Share of certified images with these weights."""
    uniform: float
    """The same with equal weights."""
    members: List[float]
    """The same of each member alone."""


def _worst(residuals: Tensor, weights: Tensor) -> Tensor:
    """max_c sum_k a_k r_kc for a batch of weights (W, K): (W, N)."""
    mixed = torch.einsum('wk,knc->wnc', weights, residuals)
    return mixed.amax(2)


def _smooth_start(residuals: Tensor, steps: int = 200) -> Tensor:
    """Weights that a smooth stand-in of the count prefers."""
    logits = torch.zeros(
        len(residuals), dtype=torch.float64, requires_grad=True)
    worst = residuals.amax(2)
    width = worst.abs().median().clamp(min=1e-6)
    optimiser = torch.optim.Adam([logits], 0.1)
    with torch.enable_grad():
        for _ in range(steps):
            a = logits.softmax(0)
            loss = torch.sigmoid(4 * _worst(residuals, a[None])[0] /
                                 width).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return logits.detach().softmax(0)


def _score(residuals: Tensor, weights: Tensor, slack: Tensor) -> Tensor:
    """Certified count, and below 1 the mean margin to part equals."""
    worst = _worst(residuals, weights) + slack
    scale = worst.abs().amax().clamp(min=1e-12)
    return (worst < 0).sum(1) - (worst / scale).mean(1) / 2


def _exchange(residuals: Tensor, weights: Tensor, slack: Tensor) -> Tensor:
    """Move weight from one member to another as long as it helps."""
    count = len(weights)
    for step in (0.25, 0.1, 0.05, 0.02, 0.01):
        for _ in range(20 * count):
            moved = weights.repeat(count * count, 1)
            source, target = torch.meshgrid(
                torch.arange(count), torch.arange(count), indexing='ij')
            rows = torch.arange(count * count)
            amount = moved[rows, source.flatten()].clamp(max=step)
            moved[rows, source.flatten()] -= amount
            moved[rows, target.flatten()] += amount
            scores = torch.cat(
                [_score(residuals, row[None], slack) for row in moved])
            if scores.max() <= _score(residuals, weights[None], slack)[0]:
                break
            weights = moved[scores.argmax()]
    return weights


@torch.no_grad()
def fit_weights(residuals: Tensor,
                labels: Tensor,
                slack: Optional[Tensor] = None) -> FittedWeights:
    r"""Weights on the simplex that certify the most images.

    .. math::
        \max_a \#\{n : \max_{c \ne y_n} \sum_k a_k r^{(k)}_{nc} < -\tau_n\}

    The count is no concave function of a. Equal weights, single members and
    the optimum of a smooth stand-in are tried, and the best is improved by
    moving weight between pairs; so the result is never worse than equal
    weights or the best member *on these images*.

    Use images that are neither in the training nor in the test set:
    weights that were chosen on test images overstate the test score.

    Args:
        residuals (Tensor): r, shape (K, N, C), of one eps.
        labels (Tensor): y, shape (N, ).
        slack (Tensor, optional): tau, shape (K, N), see
            :func:`~mmext.models.lipschitz.certificates.rounding_slack`.
            Defaults to None, 0.

    Returns:
        FittedWeights: The weights and what they are worth.

    Raises:
        ValueError: If there are no images.
    """
    if not residuals.shape[1]:
        raise ValueError('Weights are fitted on held-out images, but got '
                         'none.')
    residuals = residuals.detach().to('cpu', torch.float64)
    index = labels.cpu().expand(len(residuals), -1)[..., None]
    residuals = residuals.scatter(2, index, float('-inf'))
    # einsum with zero weights would turn the label's -inf into nan.
    residuals = residuals.clamp(min=-1e9)
    count = len(residuals)
    tau = torch.zeros(residuals.shape[1], dtype=torch.float64)
    if slack is not None:
        # The largest of the members' is at least their average.
        tau = torch.as_tensor(slack).detach().to('cpu', torch.float64)
        tau = tau.expand(count, residuals.shape[1]).amax(0)
    uniform = simplex_weights(None, count)
    starts = torch.cat([
        uniform[None],
        _smooth_start(residuals)[None],
        torch.eye(count, dtype=torch.float64)
    ])
    scores = torch.cat([_score(residuals, a[None], tau) for a in starts])
    best = _exchange(residuals, starts[scores.argmax()], tau)
    best = simplex_weights(best, count)

    def share(a: Tensor) -> float:
        worst = _worst(residuals, a[None])[0] + tau
        return float((worst < 0).double().mean())

    return FittedWeights(best, share(best), share(uniform),
                         [share(a) for a in torch.eye(count).double()])
