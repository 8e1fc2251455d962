# Copyright (c) mmext contributors. All rights reserved.
"""Random states in the checkpoint, so that a resumed run is the same run."""
import logging
from typing import Any, Dict, List, Optional

import torch
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop

from mmext.registry import HOOKS, register_depth
from mmext.utils.rng import RNGState, get_rng_state, set_rng_state


class _RestoreBeforeNextBatch:
    """Stands in for the loop's iterator until the first new batch.

    A resumed ``IterBasedTrainLoop`` first skips the batches of the past,
    which may draw random numbers; only then may the states be put back.
    """

    def __init__(self, loop: Any, restore: Any) -> None:
        self.loop = loop
        self.inner = loop.dataloader_iterator
        self.restore = restore
        fast = getattr(loop, 'fast_forward_on_resume', False)
        self.to_skip = 0 if fast else loop.iter

    def skip_iter(self, number: int) -> None:
        """Skip batches (OneDL); the next one is new."""
        self.inner.skip_iter(number)
        self.to_skip = 0

    def __next__(self) -> Any:
        if self.to_skip > 0:
            self.to_skip -= 1
            return next(self.inner)
        # OneDL makes the iterator late, and making it draws a number.
        ensure = getattr(self.inner, '_ensure_iterator', None)
        if ensure is not None:
            ensure()
        self.restore()
        self.loop.dataloader_iterator = self.inner
        return next(self.inner)


@register_depth(HOOKS)
class RNGStateHook(Hook):
    """Save the random states with each checkpoint; put them back on resume.

    mmengine saves none, so with dropout or random augmentation a resumed run
    differs from the uninterrupted one from its first step. With this hook
    both are equal, bit for bit on CPU, for ``EpochBasedTrainLoop`` and
    ``IterBasedTrainLoop``. Each rank keeps its own states (python, numpy,
    torch, CUDA, and generators given to :meth:`register_generator`).

    The states are put back at the last moment before the first new batch is
    loaded: after the iterator was made and, by iteration, after the batches
    of the past were skipped. In any other loop it is just before the first
    ``before_train_iter``. Validation is made neutral: the states are the
    same after it as before it, so it does not matter whether a checkpoint
    was written before or after.

    Limits: worker processes (``num_workers > 0``) have their own states,
    which start anew when the workers start; random augmentation is repeated
    exactly with ``num_workers=0``, or by epoch without
    ``persistent_workers``. The order of the data repeats only with a fixed
    ``randomness=dict(seed=...)``. Of several processes, mmengine saves the
    buffers of rank 0 only (running averages of BatchNorm). Of a loop with
    ``independent_ranks``, such as :class:`TestTimeAdaptLoop`, whose
    processes may be at different frames, the states of rank 0 are saved.

    Example:
        >>> custom_hooks = [dict(type='mmext.RNGStateHook')]
    """

    # Just before CheckpointHook (VERY_LOW), after everything else.
    priority = 85

    def __init__(self) -> None:
        self._generators: Dict[str, torch.Generator] = {}
        self._loaded: Optional[dict] = None
        self._pending: Optional[RNGState] = None
        self._late: Dict[str, torch.Tensor] = {}
        self._before_val: Optional[RNGState] = None
        self._gathered: Optional[tuple] = None

    def register_generator(self, name: str,
                           generator: torch.Generator) -> None:
        """Include a generator that is not global.

        Args:
            name (str): Its key in the checkpoint.
            generator (torch.Generator): Saved with each checkpoint. If a
                resumed state waits for this name, it is put back at once.
        """
        self._generators[name] = generator
        if name in self._late:
            generator.set_state(self._late.pop(name).cpu())

    # Saving

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add ``checkpoint['rng_state']``; the Runner calls it on rank 0."""
        if get_world_size() == 1:
            ranks: List[Optional[RNGState]] = [self._current()]
        elif self._gathered is not None \
                and self._gathered[0] == (runner.epoch, runner.iter):
            ranks = self._gathered[1]
        else:
            ranks = [self._current()] + [None] * (get_world_size() - 1)
            if not self._independent(runner):
                print_log(
                    'RNGStateHook: this checkpoint was not announced by a '
                    'CheckpointHook, so it holds the random states of rank 0 '
                    'only.',
                    logger='current',
                    level=logging.WARNING)
        checkpoint['rng_state'] = dict(
            ranks=ranks, sampler_seed=_sampler_seed(runner))

    def _current(self) -> RNGState:
        return self._before_val or get_rng_state(self._generators)

    def _gather(self, runner) -> None:
        """Collect the states of all ranks; every rank must call it."""
        states: List[Any] = all_gather_object(self._current())
        self._gathered = ((runner.epoch, runner.iter), states)

    def after_train_iter(self,
                         runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Collect the states of all ranks if a checkpoint is due."""
        for hook in self._checkpoint_hooks(runner, by_epoch=False):
            if hook.every_n_train_iters(
                    runner, hook.interval,
                    hook.save_begin) or (hook.save_last
                                         and self.is_last_train_iter(runner)):
                self._gather(runner)
                return

    def after_train_epoch(self, runner) -> None:
        """Collect the states of all ranks if a checkpoint is due."""
        for hook in self._checkpoint_hooks(runner, by_epoch=True):
            if hook.every_n_epochs(runner, hook.interval, hook.save_begin) or (
                    hook.save_last and self.is_last_train_epoch(runner)):
                self._gather(runner)
                return

    @staticmethod
    def _independent(runner) -> bool:
        """Whether the ranks of the train loop do not step together."""
        return getattr(runner.train_loop, 'independent_ranks', False)

    def _checkpoint_hooks(self, runner,
                          by_epoch: bool) -> List[CheckpointHook]:
        # One process needs no collection. The Runner saves on rank 0 only,
        # so all ranks must foresee it; where they do not step together they
        # cannot, and such a run is not resumed anyway.
        if get_world_size() == 1 or self._independent(runner):
            return []
        return [
            hook for hook in runner.hooks
            if isinstance(hook, CheckpointHook) and hook.by_epoch == by_epoch
        ]

    def before_val(self, runner) -> None:
        """Remember the states, so that validation changes nothing."""
        if get_world_size() > 1:
            self._gather(runner)
        self._before_val = get_rng_state(self._generators)

    def after_val(self, runner) -> None:
        """Put back the states of before the validation."""
        if self._before_val is not None:
            set_rng_state(self._before_val, self._generators)
            self._before_val = None

    # Resuming

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Take the states out of the checkpoint."""
        self._loaded = checkpoint.get('rng_state')

    def before_train(self, runner) -> None:
        """Choose the state of this rank, if this is a resumed run."""
        loaded, self._loaded = self._loaded, None
        if runner.iter == 0 and runner.epoch == 0:
            return
        if loaded is None:
            self._warn('the checkpoint holds no random states')
        elif len(loaded['ranks']) != get_world_size():
            self._warn(f'the checkpoint is of {len(loaded["ranks"])} '
                       f'processes, this run has {get_world_size()}')
        elif loaded['ranks'][get_rank()] is None:
            self._warn('the checkpoint holds the random states of rank 0 only')
        else:
            self._pending = loaded['ranks'][get_rank()]
            if loaded['sampler_seed'] != _sampler_seed(runner):
                self._warn('the order of the data differs; fix it with '
                           'randomness=dict(seed=...)')

    @staticmethod
    def _warn(reason: str) -> None:
        print_log(
            f'RNGStateHook: the resumed run is not exact, as {reason}.',
            logger='current',
            level=logging.WARNING)

    def before_train_epoch(self, runner) -> None:
        """Put the states back, or arrange it for the first new batch."""
        if self._pending is None:
            return
        loop = runner.train_loop
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = _RestoreBeforeNextBatch(
                loop, self._restore)
        elif isinstance(loop, EpochBasedTrainLoop):
            # Making an iterator draws a number, once per epoch; persistent
            # workers are made only once, so not in the epoch resumed here.
            self._restore(
                again=getattr(runner.train_dataloader, 'persistent_workers',
                              False))

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Put the states back if the loop gave no earlier moment."""
        self._restore()

    def _restore(self, again: bool = False) -> None:
        if self._pending is None:
            return
        set_rng_state(self._pending, self._generators)
        self._late = {
            name: state
            for name, state in self._pending['generators'].items()
            if name not in self._generators
        }
        if not again:
            self._pending = None
            print_log(
                'RNGStateHook: random states restored.', logger='current')


def _sampler_seed(runner) -> Optional[int]:
    """Seed of the order of the data, which is random unless it is set."""
    sampler = getattr(runner.train_dataloader, 'sampler', None)
    return getattr(sampler, 'seed', None)
