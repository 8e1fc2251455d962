# Copyright (c) mmext contributors. All rights reserved.
"""Notice, without labels, that a test-time adaptation goes wrong."""
import logging
from collections import deque
from typing import Any, Deque, Dict, List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from torch import Tensor

from mmext.registry import HOOKS
from mmext.utils.user_error import ConfigError

_ACTIONS = ('warn', 'reset', 'stop')
_ENTRY = 'adaptation_guard'


def prediction_share(labels: Tensor) -> float:
    """Share of the pixels that get the commonest prediction.

    Args:
        labels (Tensor): Classes, integers of shape (H, W), or a depth map in
            metres, floating point: there the pixels count that are within 1 %
            of the median.

    Returns:
        float: Between 0 and 1; 1 for a prediction that says the same
        everywhere, 0 for a map without pixels.
    """
    if labels.numel() == 0:
        return 0.
    if labels.is_floating_point():
        median = labels.median()
        same = (labels - median).abs() <= 0.01 * median.abs()
        return float(same.float().mean())
    # Counting is many times faster than sorting, as unique does.
    return float(labels.flatten().bincount().max() / labels.numel())


def relative_drift(params: Dict[str, Tensor], source: Dict[str,
                                                           Tensor]) -> float:
    r"""How far parameters went: :math:`\|\theta-\theta_0\|/\|\theta_0\|`.

    Args:
        params (dict[str, Tensor]): Parameters by name.
        source (dict[str, Tensor]): Where they started; names that it lacks
            are left out.

    Returns:
        float: The ratio of the l2 norms, 0 without a common name.
    """
    names = [name for name in params if name in source]
    if not names:
        return 0.
    started = [source[name].float() for name in names]
    moved = [params[n].detach().float() - s for n, s in zip(names, started)]
    norms = [
        torch.stack(torch._foreach_norm(tensors)).norm()
        for tensors in (moved, started)
    ]
    return float(norms[0] / norms[1].clamp_min(1e-12))


@HOOKS.register_module()
class AdaptationGuardHook(Hook):
    """Warn, return to the source or stop when an adaptation collapses.

    A model that learns from its own predictions can come to say the same of
    every pixel. Three signs need no labels:

    * the commonest prediction covers more than ``max_share`` of a frame, in
      the mean of the last ``window`` frames;
    * the adapted parameters are further than ``max_drift`` from the source,
      :math:`\\|\\theta-\\theta_0\\|/\\|\\theta_0\\|`;
    * ``patience`` updates in a row were left out, because loss or gradient
      was not finite.

    The share is logged as ``prediction_share``, the distance as ``drift``.
    Where the loop itself returns to the source (``reset='domain'``), share
    and updates are counted anew.
    For :class:`~mmext.engine.loops.TestTimeAdaptLoop`; with several
    processes each guards the model of its own.

    Args:
        action (str): ``'warn'`` (once per visit of a domain), ``'reset'``
            (weights, teacher, prompt and optimizer return to the source) or
            ``'stop'`` (end the stream; what was seen is scored).
            Defaults to ``'warn'``.
        window (int): Frames the share is averaged over. Defaults to 25.
        max_share (float, optional): In (0, 1]. None does not look at it.
            Defaults to 0.95.
        max_drift (float, optional): Above 0. Defaults to None, not looked
            at.
        patience (int, optional): At least 1. None does not look at it.
            Defaults to 20.
        interval (int): Frames between two looks at the parameters.
            Defaults to 10.

    Raises:
        ConfigError: If an argument is out of range, or the train loop is
            another one.

    Example:
        >>> custom_hooks = [
        ...     dict(type='mmext.AdaptationGuardHook', action='reset',
        ...          max_share=0.9, max_drift=0.05)]
    """

    # Before hooks that save.
    priority = 'NORMAL'

    def __init__(self,
                 action: str = 'warn',
                 window: int = 25,
                 max_share: Optional[float] = 0.95,
                 max_drift: Optional[float] = None,
                 patience: Optional[int] = 20,
                 interval: int = 10) -> None:
        if action not in _ACTIONS:
            raise ConfigError(f'Expected action to be one of {_ACTIONS}, but '
                              f'got {action!r}.')
        if max_share is not None and not 0 < max_share <= 1:
            raise ConfigError('Expected max_share in (0, 1], a part of the '
                              f'pixels, but got {max_share}.')
        if max_drift is not None and not max_drift > 0:
            raise ConfigError('Expected max_drift above 0, a part of the '
                              f"source's norm, but got {max_drift}.")
        if min(window, interval, 1 if patience is None else patience) < 1:
            raise ConfigError(
                'Expected window, interval and patience to be at least 1, '
                f'but got {window}, {interval} and {patience}.')
        self.action = action
        self.max_share = max_share
        self.max_drift = max_drift
        self.patience = patience
        self.interval = interval
        self.shares: Deque[float] = deque(maxlen=window)
        self.skipped_in_a_row = 0
        self.resets = 0
        self.alarms = 0
        self._warned: Any = None

    def before_train(self, runner) -> None:
        """Ask the loop to keep the source."""
        loop = runner.train_loop
        if not hasattr(loop, 'last_result'):
            raise ConfigError(
                'AdaptationGuardHook watches mmext.TestTimeAdaptLoop, but the '
                f'train loop is {type(loop).__name__}. Remove the hook, or '
                "set train_cfg=dict(type='mmext.TestTimeAdaptLoop', ...).")
        loop.keep_source |= (
            self.action == 'reset' or self.max_drift is not None)

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Look for the three signs, and act on them."""
        loop = runner.train_loop
        result = loop.last_result
        if self.resets != loop.resets:
            # The frames before were of another state.
            self.resets = loop.resets
            self._forget()
        self.skipped_in_a_row = \
            self.skipped_in_a_row + 1 if result.skipped else 0
        self.shares.append(prediction_share(result.labels))
        runner.message_hub.update_scalar('train/prediction_share',
                                         self.shares[-1])
        signs = self._signs(runner, loop, batch_idx)
        if not signs:
            return
        visit = loop.stream.visit_at(loop.sampler.indices[batch_idx])
        if self.action == 'warn' and self._warned == visit:
            return
        self._warned = visit
        self.alarms += 1
        done = dict(
            warn='Nothing was changed',
            reset='Everything returns to the source',
            stop='The stream ends here')[self.action]
        print_log(
            f'AdaptationGuardHook, frame {batch_idx + 1} ({visit.domain}, '
            f'round {visit.round}): {"; ".join(signs)}. {done}. A lower '
            'learning rate or a slower teacher may help.',
            logger='current',
            level=logging.WARNING)
        if self.action == 'reset':
            loop.method.reset(runner.optim_wrapper)
            self._forget()
        elif self.action == 'stop':
            loop.stop_training = True

    def _forget(self) -> None:
        """Begin anew, as the weights do."""
        self.shares.clear()
        self.skipped_in_a_row = 0

    def _signs(self, runner, loop: Any, position: int) -> List[str]:
        signs = []
        full = len(self.shares) == self.shares.maxlen
        share = sum(self.shares) / len(self.shares)
        if self.max_share is not None and full and share > self.max_share:
            signs.append(f'one prediction covers {share:.0%} of the last '
                         f'{len(self.shares)} frames, more than '
                         f'{self.max_share:.0%}')
        if self.max_drift is not None and (position + 1) % self.interval == 0:
            drift = relative_drift(
                {
                    name: param
                    for name, param in loop.model.named_parameters()
                    if param.requires_grad
                }, loop.method.source)
            runner.message_hub.update_scalar('train/drift', drift)
            if not drift <= self.max_drift:
                signs.append(f'the parameters moved by {drift:.2%} of their '
                             f'norm, more than {self.max_drift:.2%}')
        if self.patience is not None and \
                self.skipped_in_a_row >= self.patience:
            signs.append(f'{self.skipped_in_a_row} updates in a row were '
                         'left out')
        return signs

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save the window, so that a resumed run acts at the same frame."""
        checkpoint[_ENTRY] = dict(
            shares=list(self.shares),
            skipped_in_a_row=self.skipped_in_a_row,
            resets=self.resets,
            alarms=self.alarms,
            warned=list(self._warned) if self._warned else None)

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take the window of a run that is resumed."""
        state = checkpoint.get(_ENTRY)
        if state is None or not runner._resume:
            return
        self.shares.extend(state['shares'])
        self.skipped_in_a_row = state['skipped_in_a_row']
        self.resets = state.get('resets', 0)
        self.alarms = state['alarms']
        self._warned = state['warned'] and tuple(state['warned'])
