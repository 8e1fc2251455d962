# Copyright (c) mmext contributors. All rights reserved.
"""The AdamW variant of the authors' code, for reproducing its numbers."""
import math
from typing import Any, Callable, Optional, Tuple

import torch
from torch.optim import Optimizer

from mmext.registry import OPTIMIZERS
from mmext.utils.user_error import ConfigError


@OPTIMIZERS.register_module()
class BertAdamW(Optimizer):
    r"""AdamW with decay after the update and a plain eps.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \theta &\leftarrow \theta - \eta
        \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
        \frac{m}{\sqrt{v} + \epsilon} \\
        \theta &\leftarrow \theta - \eta \lambda \theta

    PyTorch's ``AdamW`` decays first and corrects the bias of ``eps`` too. A
    parameter without a gradient is skipped.

    Args:
        params (Any): Parameters or groups.
        lr (float): Learning rate. Defaults to 1e-3.
        betas (tuple[float, float]): Defaults to (0.9, 0.999).
        eps (float): Defaults to 1e-6.
        weight_decay (float): Decoupled decay; the published runs use 0.01,
            and 0 for biases. Defaults to 0.01.

    Raises:
        ConfigError: If an option is out of range.

    Examples:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='mmext.BertAdamW', lr=1e-3),
        ...     paramwise_cfg=dict(custom_keys={'bias': dict(decay_mult=0)}))
    """

    def __init__(self,
                 params: Any,
                 lr: float = 1e-3,
                 betas: Tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6,
                 weight_decay: float = 0.01) -> None:
        if lr < 0 or eps < 0 or weight_decay < 0:
            raise ConfigError('lr, eps and weight_decay are not negative, but '
                              f'got {lr}, {eps} and {weight_decay}.')
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f'betas lie in [0, 1), but got {betas}.')
        super().__init__(
            params,
            dict(
                lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay))

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

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        grad, state = parameter.grad, self.state[parameter]
        if not state:
            state['step'] = torch.zeros((), dtype=torch.float32)
            state['exp_avg'] = torch.zeros_like(parameter)
            state['exp_avg_sq'] = torch.zeros_like(parameter)
        state['step'] += 1
        step, (beta1, beta2) = float(state['step']), group['betas']
        state['exp_avg'].lerp_(grad, 1 - beta1)
        state['exp_avg_sq'].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        rate = group['lr'] * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        parameter.addcdiv_(
            state['exp_avg'],
            state['exp_avg_sq'].sqrt().add_(group['eps']),
            value=-rate)
        if group['weight_decay']:
            parameter.mul_(1 - group['lr'] * group['weight_decay'])
