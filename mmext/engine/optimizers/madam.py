# Copyright (c) mmext contributors. All rights reserved.
"""An optimizer that multiplies instead of adding."""
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmext.registry import OPTIMIZERS
from mmext.utils.user_error import ConfigError


@OPTIMIZERS.register_module()
class Madam(Optimizer):
    r"""Multiplicative updates, bounded weights.

    .. math::
        v &\leftarrow \beta v + (1 - \beta) g^2, \quad
        \hat g = \mathrm{clip}(g / \sqrt{v/(1-\beta^t)}, \pm b) \\
        w &\leftarrow \mathrm{clip}(w\,e^{-\eta\hat g\,\mathrm{sign}(w)},
        \pm M), \quad M = s\,\mathrm{rms}(w_0)

    (arXiv:2006.14560), M from each tensor at its first step. A weight of zero
    never moves, and a tensor that is zero at its first step (every bias) is
    frozen by M = 0; by default those tensors are trained by Adam.

    Args:
        params (Any): Parameters or groups.
        lr (float): Learning rate. Defaults to 0.01.
        p_scale (float): s. Defaults to 3.
        g_bound (float): b. Defaults to 10.
        beta (float): Rate of the second moment. Defaults to 0.999.
        zero_init (str): What happens to tensors that are zero at the first
            step: ``'adam'`` (Adam with ``adam_lr``) or ``'frozen'``, as in
            the authors' code. Defaults to ``'adam'``.
        adam_lr (float, optional): Defaults to None, ``lr``.
        adam_betas (tuple[float, float]): Defaults to (0.9, 0.999).
        eps (float): Of Adam. Defaults to 1e-10.

    Raises:
        ConfigError: If an option is out of range.

    Example:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='mmext.Madam', lr=0.01))
    """

    def __init__(self,
                 params: Any,
                 lr: float = 0.01,
                 p_scale: float = 3.,
                 g_bound: float = 10.,
                 beta: float = 0.999,
                 zero_init: str = 'adam',
                 adam_lr: Optional[float] = None,
                 adam_betas: Tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-10) -> None:
        if lr < 0 or eps < 0 or (adam_lr or 0) < 0:
            raise ConfigError('lr, adam_lr and eps are not negative, but got '
                              f'{lr}, {adam_lr} and {eps}.')
        if p_scale <= 0 or g_bound <= 0:
            raise ConfigError('p_scale and g_bound are positive, but got '
                              f'{p_scale} and {g_bound}.')
        if not all(0 <= rate < 1 for rate in (beta, *adam_betas)):
            raise ConfigError('beta and adam_betas lie in [0, 1), but got '
                              f'{beta} and {adam_betas}.')
        if zero_init not in ('adam', 'frozen'):
            raise ConfigError("zero_init is 'adam' or 'frozen', but got "
                              f'{zero_init!r}.')
        super().__init__(
            params,
            dict(
                lr=lr,
                p_scale=p_scale,
                g_bound=g_bound,
                beta=beta,
                zero_init=zero_init,
                adam_ratio=1. if adam_lr is None else _ratio(adam_lr, lr),
                adam_betas=tuple(adam_betas),
                eps=eps))

    @torch.no_grad()
    def step(self, closure: Optional[Callable] = None) -> Any:
        """Take one step.

        Args:
            closure (Callable, optional): Evaluates the loss again.

        Returns:
            Any: What ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, weight: Tensor, group: dict) -> None:
        state = self.state[weight]
        if not state:
            state['step'] = torch.zeros((), dtype=torch.float32)
            state['max'] = group['p_scale'] * weight.square().mean().sqrt()
            state['exp_avg_sq'] = torch.zeros_like(weight)
            if not state['max'] and group['zero_init'] == 'adam':
                state['exp_avg'] = torch.zeros_like(weight)
        state['step'] += 1
        if 'exp_avg' in state:
            _adam(weight, state, group)
        else:
            _multiply(weight, state, group)


def _ratio(adam_lr: float, lr: float) -> float:
    """Adam's rate follows the schedule of ``lr`` at a fixed ratio."""
    if not lr:
        raise ConfigError('adam_lr needs an lr above 0, to which it keeps its '
                          f'ratio, but got lr={lr}.')
    return adam_lr / lr


def _multiply(weight: Tensor, state: dict, group: dict) -> None:
    grad, moment = weight.grad, state['exp_avg_sq']
    moment.mul_(group['beta']).addcmul_(grad, grad, value=1 - group['beta'])
    unbiased = moment / (1 - group['beta']**float(state['step']))
    scaled = (grad / unbiased.sqrt()).nan_to_num_(
        nan=0., posinf=float('inf'), neginf=-float('inf'))
    scaled.clamp_(-group['g_bound'], group['g_bound'])
    weight.mul_(torch.exp(-group['lr'] * scaled * weight.sign()))
    # M stays on the device: no synchronisation for each tensor.
    torch.minimum(weight, state['max'], out=weight)
    torch.maximum(weight, -state['max'], out=weight)


def _adam(weight: Tensor, state: dict, group: dict) -> None:
    grad, step = weight.grad, float(state['step'])
    beta1, beta2 = group['adam_betas']
    state['exp_avg'].lerp_(grad, 1 - beta1)
    state['exp_avg_sq'].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    root = (state['exp_avg_sq'] / (1 - beta2**step)).sqrt_()
    rate = group['lr'] * group['adam_ratio'] / (1 - beta1**step)
    weight.addcdiv_(state['exp_avg'], root.add_(group['eps']), value=-rate)
