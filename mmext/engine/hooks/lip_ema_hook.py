# Copyright (c) mmext contributors. All rights reserved.
"""The moving average of a distance net, used for everything that counts."""
import logging
import math
import random
from typing import Any, Dict, Iterator, Optional

import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmext.models.lipschitz.averaging import (recalibrate_mean_shift,
                                              warmup_decay)
from mmext.models.lipschitz.p_norm import p_norm
from mmext.registry import HOOKS
from mmext.utils.rng import get_rng_state, set_rng_state
from mmext.utils.user_error import ConfigError
from .lip_distributed import epoch_length, sync_running_means
from .mean_teacher_hook import MeanTeacherHook, _stepped, _unwrapped

_BUFFERS = dict(live=True, average='average', recalibrate=True)


@HOOKS.register_module()
class LipschitzEMAHook(MeanTeacherHook):
    r"""Average the weights of a distance net, then test, certify, save them.

    After each iteration of epoch e (from 0)

    .. math::
        \bar\theta \leftarrow \alpha_e\bar\theta + (1-\alpha_e)\theta, \quad
        \alpha_e = \min(1 - \tfrac{1}{e+1}, \alpha)

    (arXiv:2107.00230). The average of distance nets is a
    distance net, so its certificates are as sound as any. The authors' code
    evaluates clean accuracy of the average only and certifies and saves the
    live weights; here validation, test, certificates and the checkpoint's
    ``state_dict`` are of the average, with the live weights in
    ``ema_state_dict`` and their metrics beside it as ``<metric>_live``.

    Args:
        decay (float): The largest alpha. Defaults to 0.99.
        warmup (str, optional): What alpha rises with: ``'epoch'`` as
            published, ``'iter'``, or None for ``decay`` from the start.
            Defaults to ``'epoch'``.
        buffers (str): Running means of the average: those of the live
            weights (``'live'``, as published), their own moving average
            (``'average'``), or gathered anew at p = inf from training
            images before each validation and saving (``'recalibrate'``).
            Defaults to ``'live'``.
        recalibrate_batches (int): Training batches for
            ``'recalibrate'``, of the size of the training loader's.
            Defaults to 20.
        eval_scope (str): ``'all'``, or ``'clean_only'`` as in the authors'
            code: metrics and ``state_dict`` are of the live weights, and
            the average adds ``<metric>_ema`` of the metrics that are no
            certificates. Defaults to ``'all'``.
        evaluate_live (bool): Run each validation and test for the other
            weights too. Defaults to True.

    Raises:
        ConfigError: If an option has a value that does not exist.

    Examples:
        >>> custom_hooks = [
        ...     dict(type='mmext.LipschitzEMAHook', buffers='recalibrate'),
        ...     dict(
        ...         type='mmext.PNormScheduleHook',
        ...         epochs=(0, 50, 50, 350, 400))
        ... ]
    """

    def __init__(self,
                 decay: float = 0.99,
                 warmup: Optional[str] = 'epoch',
                 buffers: str = 'live',
                 recalibrate_batches: int = 20,
                 eval_scope: str = 'all',
                 evaluate_live: bool = True) -> None:
        if buffers not in _BUFFERS:
            raise ConfigError(
                f'Expected buffers to be one of {sorted(_BUFFERS)}, but got '
                f"{buffers!r}. 'live' is as published.")
        if eval_scope not in ('all', 'clean_only'):
            raise ConfigError(
                "Expected eval_scope to be 'all' (everything is of the "
                "average) or 'clean_only' (as in the authors' code), but got "
                f'{eval_scope!r}.')
        if recalibrate_batches < 1:
            raise ConfigError(
                'Expected recalibrate_batches to be at least 1, but got '
                f"{recalibrate_batches}. For no recalibration set buffers to "
                "'live' or 'average'.")
        warmup_decay(decay, warmup, 0, 0)  # refuses another warm-up
        super().__init__(
            decay=decay, update_buffers=_BUFFERS[buffers], update='iter')
        self.decay, self.warmup, self.buffers = decay, warmup, buffers
        self.batches = recalibrate_batches
        self.eval_scope = eval_scope
        self.evaluate_live = evaluate_live
        self._calibrated = False
        self._changed = 0
        self._other: Dict[str, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Copy the live weights, or restore the resumed average."""
        if runner._resume and self._resumed is None and runner.iter:
            print_log(
                'The resumed checkpoint holds no average of weights: it '
                'starts anew from the live ones.',
                logger='current',
                level=logging.WARNING)
        super().before_train(runner)
        self._calibrated = False
        self._changed = runner.iter

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Average, after an iteration in which the optimiser stepped."""
        if not _stepped(runner):
            return
        epoch = runner.iter // epoch_length(runner.train_dataloader)
        self.teacher.update(
            _unwrapped(runner),
            warmup_decay(self.decay, self.warmup, epoch, runner.iter))
        self._calibrated = False
        self._changed = runner.iter + 1
        self._sync(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Before validation and saving, one average in all processes."""
        self._sync(runner, epoch_ends=True)

    def _sync(self, runner: Runner, **kwargs: bool) -> None:
        # Those that are gathered anew are the same in all processes.
        if self.buffers != 'recalibrate':
            sync_running_means(runner, self.teacher.module, **kwargs)

    # Evaluation --------------------------------------------------------------

    def before_val_epoch(self, runner: Runner) -> None:
        """Let validation see the average."""
        self._before(runner, runner.val_loop)

    def after_val_epoch(self,
                        runner: Runner,
                        metrics: Optional[dict] = None) -> None:
        """Give the live weights back to training, add their metrics."""
        self._after(runner, metrics, 'val')

    def before_test_epoch(self, runner: Runner) -> None:
        """After training in the same run, let the test see the average."""
        self._before(runner, runner.test_loop)

    def after_test_epoch(self,
                         runner: Runner,
                         metrics: Optional[dict] = None) -> None:
        """Give the live weights back, add their metrics."""
        self._after(runner, metrics, 'test')

    def _before(self, runner: Runner, loop: Any) -> None:
        if self._teacher is None:  # a test of a checkpoint
            return
        self._calibrate(runner)
        clean_only = self.eval_scope == 'clean_only'
        if self.evaluate_live or clean_only:
            # First the other weights, so that what a metric writes to files
            # is of the weights that count.
            if clean_only:
                self._swap(runner)
            self._other = self._evaluate(runner, loop)
            if clean_only:
                self._swap(runner)
        if not clean_only:
            self._swap(runner)

    def _after(self, runner: Runner, metrics: Optional[dict],
               mode: str) -> None:
        if self._teacher is None:
            return
        name = 'live'
        if self.eval_scope == 'clean_only':
            name = 'ema'
            self._other = {
                key: value
                for key, value in self._other.items()
                if not key.startswith('cert') or key.endswith('/clean')
            }
        else:
            self._swap(runner)
        for key, value in self._other.items():
            if metrics is not None:
                metrics[f'{key}_{name}'] = value
            if isinstance(value, (int, float)):
                runner.message_hub.update_scalar(f'{mode}/{key}_{name}', value)
        self._other = {}

    def _evaluate(self, runner: Runner, loop: Any) -> dict:
        runner.model.eval()
        # The hook that sets p for evaluation comes after this one.
        with p_norm(_unwrapped(runner), math.inf):
            for index, batch in enumerate(loop.dataloader):
                loop.run_iter(index, batch)
        return dict(loop.evaluator.evaluate(len(loop.dataloader.dataset)))

    # Running means -----------------------------------------------------------

    def _calibrate(self, runner: Runner) -> None:
        """Gather running means, once for one state of the average.

        Every process does so by itself from the same images with the same
        random numbers: saving happens in the main process alone, and after
        it the runner may count another iteration before the others validate.
        """
        if self.buffers != 'recalibrate' or self._calibrated:
            return
        model = self.teacher.module
        state = get_rng_state()
        try:
            recalibrate_mean_shift(
                model,
                self._images(runner),
                forward=lambda net, batch: net(
                    **net.data_preprocessor(batch, True), mode='tensor'),
                size=lambda batch: len(batch['inputs']))
        finally:
            set_rng_state(state)
        self._calibrated = True

    def _images(self, runner: Runner) -> Iterator[dict]:
        """Training batches, without touching the training loader."""
        loader = runner.train_dataloader
        seed = (runner.seed or 0) + self._changed
        if runner._randomness_cfg.get('diff_rank_seed'):
            seed -= get_rank()
        # what augmentations draw from
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(loader.dataset), generator=generator)
        size = loader.batch_size or loader.batch_sampler.batch_size
        for batch in order[:size * self.batches].split(size):
            yield loader.collate_fn([loader.dataset[int(i)] for i in batch])

    # Checkpoints -------------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the average as the model and the live weights beside it."""
        if self._teacher is None or not is_main_process():
            return
        self._calibrate(runner)
        super().before_save_checkpoint(runner, checkpoint)
        if self.eval_scope == 'clean_only':
            _exchange(checkpoint)
        elif self.buffers == 'recalibrate':
            checkpoint['lp_norm'] = math.inf
        checkpoint['ema_scope'] = self.eval_scope

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """On resume, give the live weights to the runner, keep the average."""
        if runner._resume and checkpoint.get('ema_scope') == 'clean_only':
            _exchange(checkpoint)
        super().after_load_checkpoint(runner, checkpoint)


def _exchange(checkpoint: dict) -> None:
    checkpoint['state_dict'], checkpoint['ema_state_dict'] = (
        checkpoint['ema_state_dict'], checkpoint['state_dict'])
