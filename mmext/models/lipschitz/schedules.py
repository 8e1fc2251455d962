# Copyright (c) mmext contributors. All rights reserved.
r"""The values that change while a distance net is trained.

The exponent p of the distance rises from a smooth one to infinity, the
training radius may rise from 0, the weight of the cross-entropy falls; all
are functions of the iteration, so that resuming needs no state.
"""
import math
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

from mmext.utils.arguments import is_number
from mmext.utils.user_error import ConfigError


@dataclass(frozen=True)
class LpSchedule:
    r"""p, radius, learning rate and weights at iteration t (section 4.3).

    With n iterations an epoch and ``style='ramp'`` (P1, EMA and ensembles),
    ``epochs`` = :math:`(e_0, e_1, e_2, e_3, T)`:

    .. math::
        \eta &= \tfrac12\eta_0(1+\cos(\pi\max(
        \tfrac{t-e_1n}{(T-e_1)n}, 0))) \\
        \rho &= \mathrm{clip}(\tfrac{t-e_1n}{(e_3-e_1)n}, 0, 1), \quad
        p = p_0(p_1/p_0)^\rho \text{ if } \rho < 1 \text{ else } \infty \\
        \epsilon &= \epsilon_{train}
        \mathrm{clip}(\tfrac{t-e_0n}{e_2n}, 0, 1)
        \text{ if } e_2 > 0 \text{ else } \epsilon_{train}

    so :math:`e_2` is the length of the radius' ramp, which begins at
    :math:`e_0`. With ``style='v2'`` (P2, P3), ``epochs`` = (begin and end of
    the radius' ramp, begin and end of p's rise, T): the learning rate falls
    along a cosine from the first iteration, p becomes infinite at the end of
    its rise if ``p_end`` is at least 100 (else it stays there), and the
    radius rises linearly, or with ``eps_smooth`` = r > 0 as
    :math:`k\rho^4`, :math:`k = 1/((4-3r)r^3)`, before it goes on linearly.

    In both, the weight of the cross-entropy is
    :math:`\lambda_0(\lambda_1/\lambda_0)^\rho` along the rise of p, and
    kappa goes linearly between its two values along the radius' ramp.

    Args:
        epochs (Sequence[float]): Five numbers, see above.
        iters_per_epoch (int): n.
        style (str): ``'ramp'`` or ``'v2'``. Defaults to ``'ramp'``.
        p_start (float): p of the start, at least 1. Defaults to 8.
        p_end (float): p just before infinity. Defaults to 1000.
        eps_train (float): Training radius, in any unit. Defaults to 1.
        base_lr (float): Learning rate of the start. Defaults to 1.
        lam (tuple[float, float]): Weight of the cross-entropy at the start
            and the end. Defaults to (0, 0).
        kappa (tuple[float, float]): Weight of the worst case at the start
            and the end. Defaults to (1, 1).
        eps_smooth (float): Part of the radius' ramp that is of fourth order,
            in [0, 1); ``style='v2'`` only. Defaults to 0.

    Raises:
        ConfigError: If an option does not fit the others.

    Example:
        >>> schedule = LpSchedule((0, 50, 50, 350, 400), 118, eps_train=0.35)
        >>> schedule.p(400 * 118)
        inf
    """
    epochs: Sequence[float]
    iters_per_epoch: int
    style: str = 'ramp'
    p_start: float = 8.
    p_end: float = 1000.
    eps_train: float = 1.
    base_lr: float = 1.
    lam: Tuple[float, float] = (0., 0.)
    kappa: Tuple[float, float] = (1., 1.)
    eps_smooth: float = 0.

    def __post_init__(self) -> None:
        check_schedule(self.epochs, self.style, self.p_start, self.p_end,
                       self.eps_smooth)
        if self.iters_per_epoch < 1:
            raise ConfigError('An epoch has at least one iteration, but got '
                              f'iters_per_epoch={self.iters_per_epoch}.')
        for name in ('lam', 'kappa'):
            pair = getattr(self, name)
            if len(pair) != 2 or min(pair) < 0:
                raise ConfigError(
                    f'{name} is a pair of numbers that are not negative, the '
                    f'values of start and end, but got {pair}.')

    def _since(self, t: float, begin: float, length: float) -> float:
        """Part of an interval that is over at iteration t, in [0, 1]."""
        if length <= 0:
            return float(t >= begin * self.iters_per_epoch)
        done = (t - begin * self.iters_per_epoch) / (
            length * self.iters_per_epoch)
        return min(max(done, 0.), 1.)

    def ratio(self, t: float) -> float:
        """How far p's rise has come at iteration ``t``, in [0, 1]."""
        if self.style == 'ramp':
            begin, end = self.epochs[1], self.epochs[3]
        else:
            begin, end = self.epochs[2], self.epochs[3]
        return self._since(t, begin, end - begin)

    def p(self, t: float) -> float:
        """Exponent of the distance at iteration ``t``."""
        ratio = self.ratio(t)
        if ratio >= 1 and (self.style == 'ramp' or self.p_end >= 100):
            return math.inf
        return self.p_start * (self.p_end / self.p_start)**ratio

    def eps_ratio(self, t: float) -> float:
        """How far the radius' ramp has come at iteration ``t``."""
        if self.style == 'ramp':
            begin, length = self.epochs[0], self.epochs[2]
        else:
            begin, length = self.epochs[0], self.epochs[1] - self.epochs[0]
        # without a ramp the radius is there from the first iteration
        return self._since(t, begin, length) if length > 0 else 1.

    def eps(self, t: float) -> float:
        """Training radius at iteration ``t``, in the unit of eps_train."""
        ratio, smooth = self.eps_ratio(t), self.eps_smooth
        if smooth > 0 and ratio < 1:
            factor = 1 / ((4 - 3 * smooth) * smooth**3)
            knee = factor * smooth**4
            if ratio < smooth:
                ratio = factor * ratio**4
            else:
                ratio = knee + (1 - knee) * (ratio - smooth) / (1 - smooth)
        return self.eps_train * ratio

    def lr(self, t: float) -> float:
        """Learning rate at iteration ``t``."""
        begin = self.epochs[1] if self.style == 'ramp' else 0
        done = self._since(t, begin, self.epochs[4] - begin)
        return 0.5 * self.base_lr * (1 + math.cos(math.pi * done))

    def lam_at(self, t: float) -> float:
        """Weight of the cross-entropy at iteration ``t``."""
        start, end = self.lam
        if start == 0 or end == 0:
            return start + (end - start) * self.ratio(t)
        return start * (end / start)**self.ratio(t)

    def kappa_at(self, t: float) -> float:
        """Weight of the worst case at iteration ``t``."""
        start, end = self.kappa
        return start + (end - start) * self.eps_ratio(t)


def check_schedule(epochs: Optional[Sequence[float]],
                   style: str = 'ramp',
                   p_start: float = 8.,
                   p_end: float = 1000.,
                   eps_smooth: float = 0.) -> None:
    """Refuse a schedule that cannot be meant.

    Args:
        epochs (Sequence[float]): See :class:`LpSchedule`, as all others.
        style (str): Kind of schedule. Defaults to ``'ramp'``.
        p_start (float): Defaults to 8.
        p_end (float): Defaults to 1000.
        eps_smooth (float): Defaults to 0.

    Raises:
        ConfigError: What was expected, what was given.
    """
    if style not in ('ramp', 'v2'):
        raise ConfigError(
            "Expected style to be 'ramp' or 'v2', which read the five epochs "
            f'differently, but got {style!r}.')
    names = dict(
        ramp='begin of the ramp of eps, begin of the rise of p, length of '
        'the ramp of eps, end of the rise of p, total',
        v2='begin and end of the ramp of eps, begin and end of the rise of '
        'p, total')[style]
    if not isinstance(epochs, Sequence) or len(epochs) != 5 or not all(
            is_number(epoch, 0) for epoch in epochs):
        raise ConfigError(
            'Expected epochs to be five numbers that are not negative '
            f'({names}), but got {epochs}. Set epochs of the hook.')
    rise = epochs[1] if style == 'ramp' else epochs[2]
    if not rise <= epochs[3] <= epochs[4] or epochs[4] == 0 or (
            style == 'v2' and epochs[0] > epochs[1]):
        raise ConfigError(
            f'Expected epochs ({names}) in which beginnings come before '
            f'ends, but got {tuple(epochs)}. Mind the style, {style!r}: '
            "'ramp' gives the length of the radius' ramp, 'v2' its end.")
    if not is_number(p_start) or not is_number(
            p_end) or not 1 <= p_start <= p_end:
        raise ConfigError(
            'Expected 1 <= p_start <= p_end < inf (below 1 there is no norm, '
            'and p becomes infinite after p_end by itself), but got '
            f'{p_start} and {p_end}.')
    if not is_number(eps_smooth, 0) or eps_smooth >= 1 or (
            eps_smooth and style == 'ramp'):
        raise ConfigError("eps_smooth lies in [0, 1) and needs style='v2', "
                          f'but got {eps_smooth} with {style!r}.')
