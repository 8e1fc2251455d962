# Copyright (c) mmext contributors. All rights reserved.
"""What to do when a loss is not a number."""
import copy
import logging
from typing import Any, Dict, List, Optional

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor

from mmext.registry import HOOKS, register_depth
from mmext.utils.user_error import ConfigError

_ACTIONS = ('raise', 'skip', 'restore')


@register_depth(HOOKS)
class InvalidLossHook(Hook):
    """Stop, skip the update, or go back when a loss is NaN or infinite.

    ``'raise'`` looks at the logged losses after an iteration and stops with
    their names, before a checkpoint is written. ``'skip'`` and ``'restore'``
    look at the loss that is given to ``optim_wrapper.update_params``, before
    it reaches any parameter: ``'skip'`` leaves out that update; ``'restore'``
    also puts model and optimizer back to the last state that gave a finite
    loss, which helps when finite losses had non-finite gradients. It keeps a
    copy of both on their devices. All ranks decide together.

    Args:
        action (str): 'raise', 'skip' or 'restore'. Defaults to 'raise'.
        interval (int): For 'raise', check every ``interval`` iterations (the
            check waits for the device). For 'restore', copy the state every
            ``interval`` iterations; every loss is checked. For 'skip' it
            must be 1. Defaults to 1.
        patience (int): Stop after this many invalid losses in a row, as
            skipping for ever hides the cause. Defaults to 20.

    Raises:
        ConfigError: If an argument is out of range.
        FloatingPointError: While training, if the loss is not finite and
            ``action`` is 'raise', or ``patience`` is used up, or there is
            nothing to restore, or the model's ``train_step`` does not call
            ``update_params``.

    Example:
        >>> custom_hooks = [
        ...     dict(type='mmext.InvalidLossHook', action='restore',
        ...          interval=50)]
    """

    # Before hooks that average or save the weights.
    priority = 'ABOVE_NORMAL'

    def __init__(self,
                 action: str = 'raise',
                 interval: int = 1,
                 patience: int = 20) -> None:
        if action not in _ACTIONS:
            raise ConfigError(f'Expected action to be one of {_ACTIONS}, but '
                              f'got {action!r}.')
        if interval < 1 or patience < 1:
            raise ConfigError('Expected interval and patience to be at least '
                              f'1, but got {interval} and {patience}.')
        if action == 'skip' and interval != 1:
            raise ConfigError(
                "Expected interval=1 with action='skip', as one update that "
                f'is not checked spoils the weights, but got {interval}.')
        self.action = action
        self.interval = interval
        self.patience = patience
        self.invalid_in_a_row = 0
        self._finite_calls = 0
        self._handled = False
        self._good: Optional[Dict[str, Any]] = None

    def before_train(self, runner) -> None:
        """Put the check in front of ``update_params``."""
        if self.action == 'raise':
            return
        wrapper = runner.optim_wrapper
        for one in (wrapper.values()
                    if hasattr(wrapper, 'values') else [wrapper]):
            self._guard(runner, one)

    def _guard(self, runner, wrapper: Any) -> None:
        update_params = wrapper.update_params

        def checked(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if self._all_finite(loss):
                self.invalid_in_a_row = 0
                if self.action == 'restore':
                    self._remember(runner)
                update_params(loss, *args, **kwargs)
            else:
                self._handled = True
                self._leave_out(runner, wrapper)

        wrapper.update_params = checked

    @staticmethod
    def _all_finite(loss: Tensor) -> bool:
        finite = torch.isfinite(loss.detach()).all().to(torch.int32)
        all_reduce(finite, op='min')
        return bool(finite)

    def _remember(self, runner) -> None:
        """Copy the state that gave a finite loss, every ``interval`` calls.

        The copy is taken before the update: the weights after it have not
        shown yet that they are sound.
        """
        if self._finite_calls % self.interval == 0:
            model = {
                key:
                value.detach().clone()
                if isinstance(value, Tensor) else copy.deepcopy(value)
                for key, value in runner.model.state_dict().items()
            }
            self._good = dict(
                iter=runner.iter,
                model=model,
                optimizer=copy.deepcopy(runner.optim_wrapper.state_dict()))
        self._finite_calls += 1

    def _leave_out(self, runner, wrapper: Any) -> None:
        self.invalid_in_a_row += 1
        if self.invalid_in_a_row >= self.patience:
            raise FloatingPointError(
                f'{self.invalid_in_a_row} losses in a row were not finite, '
                f'the last at iteration {runner.iter + 1}. Lower the '
                'learning rate, clip the gradients or look at the data.')
        if self.action == 'restore':
            if self._good is None:
                raise FloatingPointError(
                    'The first loss is not finite, so there is no earlier '
                    'state to restore. Look at the weights and the data.')
            runner.model.load_state_dict(self._good['model'])
            runner.optim_wrapper.load_state_dict(
                copy.deepcopy(self._good['optimizer']))
            wrapper.zero_grad()
        # Keep the rhythm of gradient accumulation.
        wrapper._inner_count += 1
        if wrapper.should_update():
            if any(p.grad is not None for group in wrapper.param_groups
                   for p in group['params']):
                wrapper.step()
            wrapper.zero_grad()

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Stop at an invalid loss, or log what was done about it."""
        handled, self._handled = self._handled, False
        if handled:
            done = 'left out' if self.action == 'skip' else \
                f'left out and the state before iteration ' \
                f'{self._good["iter"] + 1} restored'
            print_log(
                f'InvalidLossHook: {self._names(outputs)} not finite at '
                f'iteration {runner.iter + 1}; the update was {done}.',
                logger='current',
                level=logging.WARNING)
            return
        if not self.every_n_train_iters(runner, self.interval):
            return
        names = self._names(outputs, default='')
        if names:
            reason = '' if self.action == 'raise' else (
                " The model's train_step does not call update_params, so "
                f'{self.action!r} is not possible.')
            raise FloatingPointError(
                f'{names} not finite at iteration {runner.iter + 1}. Lower '
                'the learning rate, clip the gradients, look at the data, or '
                "use InvalidLossHook(action='skip' or 'restore')." + reason)

    @staticmethod
    def _names(outputs: Optional[dict], default: str = 'the loss is') -> str:
        """The losses that are not finite, with their values."""
        bad: List[str] = []
        for name, value in (outputs or {}).items():
            if 'loss' not in name:
                continue
            value = torch.as_tensor(value)
            if not torch.isfinite(value).all():
                bad.append(f'{name}={value.mean().item()}')
        if not bad:
            return default
        return ', '.join(bad) + (' is' if len(bad) == 1 else ' are')
