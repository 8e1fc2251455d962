# Copyright (c) mmext contributors. All rights reserved.
"""The exponent, the radius and the weights of the loss, as training goes."""
import logging
import math
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmext.models.lipschitz.boxes import check_eps
from mmext.models.lipschitz.loss_modules import LACKS_LAM
from mmext.models.lipschitz.p_norm import distance_modules, saved_p
from mmext.models.lipschitz.schedules import LpSchedule, check_schedule
from mmext.registry import HOOKS
from mmext.utils.arguments import is_number
from mmext.utils.user_error import ConfigError
from .lip_distributed import epoch_length, sync_running_means

_HEAD = ('eps', 'kappa', 'lam')


@HOOKS.register_module()
class PNormScheduleHook(Hook):
    r"""Set p, the training radius and the weights before each iteration.

    All values are functions of the iteration, see
    :class:`~mmext.models.lipschitz.schedules.LpSchedule`, so that a resumed
    run needs no state. Before iteration t, p goes to every distance layer
    and to the optimizer's groups that have a ``p_norm``
    (``mmext.AdamWLp``); the radius, kappa and lambda go to the heads, which
    are the modules with the attributes ``eps``, ``kappa`` and ``lam``.
    Validation and test see p = inf, the only one for which there are
    certificates; training gets its p back.

    In distributed training all processes get the mean of their running means
    before validation and saving.

    A checkpoint says in ``lp_norm`` at which p it was saved. The running
    means of a finite one do not fit p = inf; the hook tells the model
    (``trained_p``), and ``mmext.LipschitzClassifier`` refuses to certify.

    Args:
        epochs (Sequence[float]): Five numbers of epochs. With
            ``style='ramp'``: begin of the radius' ramp, begin of p's rise
            (and of the learning rate's fall), length of the radius' ramp,
            end of p's rise, total. With ``style='v2'``: begin and end of the
            radius' ramp, begin and end of p's rise, total. If the total is
            1, they are fractions of the length of the run, and
            ``train_cfg.max_epochs`` scales them all.
        style (str): ``'ramp'`` (the paper) or ``'v2'`` (its successors).
            Defaults to ``'ramp'``.
        p_start (float): At least 1. Defaults to 8.
        p_end (float): p just before infinity. Defaults to 1000.
        eps_smooth (float): Part of the radius' ramp that is of fourth
            order; ``'v2'`` only. Defaults to 0.
        eps_train (float | str, optional): Radius in units of pixels in
            [0, 1], such as 0.1 or ``'8/255'``, in place of the heads'.
            Defaults to None.
        lam (tuple[float, float], optional): Weight of the cross-entropy at
            the start and the end. Defaults to None, the heads'. Losses that
            cannot do without refuse 0 at the start.
        kappa (tuple[float, float], optional): Weight of the worst case at
            both ends of the radius' ramp. Defaults to None, the heads'.
        lr (bool): Let the hook set the learning rate too, with the cosine
            of the schedule; then leave ``param_scheduler`` out. Defaults to
            False: the config has a ``CosineAnnealingLR``.

    Examples:
        >>> custom_hooks = [
        ...     dict(type='mmext.LipschitzEMAHook'),
        ...     dict(
        ...         type='mmext.PNormScheduleHook',
        ...         epochs=(0, 50, 50, 350, 400))
        ... ]
    """

    # After the hook that swaps weights for validation.
    priority = 'BELOW_NORMAL'

    def __init__(self,
                 epochs: Sequence[float],
                 style: str = 'ramp',
                 p_start: float = 8.,
                 p_end: float = 1000.,
                 eps_smooth: float = 0.,
                 eps_train: Optional[Union[float, str]] = None,
                 lam: Optional[Tuple[float, float]] = None,
                 kappa: Optional[Tuple[float, float]] = None,
                 lr: bool = False) -> None:
        check_schedule(epochs, style, p_start, p_end, eps_smooth)
        if eps_train is not None:
            eps_train = check_eps(eps_train)
        self.epochs = tuple(epochs)
        self.options = dict(
            style=style, p_start=p_start, p_end=p_end, eps_smooth=eps_smooth)
        self.eps_train = eps_train
        self.lam, self.kappa = _pair('lam', lam), _pair('kappa', kappa)
        self.lr = lr
        self.schedule: Optional[LpSchedule] = None
        self._layers: List[nn.Module] = []
        self._heads: List[Tuple[nn.Module, float]] = []
        self._kept: List[Tuple[nn.Module, float]] = []
        self._done = 0
        self._warned = False

    def before_train(self, runner: Runner) -> None:
        """Find the layers and heads, and lay the schedule out."""
        model = _unwrapped(runner)
        self._layers = list(distance_modules(model))
        if not self._layers:
            raise ConfigError(
                'PNormScheduleHook found no distance layer in the model. '
                'Use a backbone such as mmext.LipMLP, or remove the hook.')
        heads = [
            m for m in model.modules() if all(
                hasattr(m, name) for name in _HEAD)
        ]
        # without a radius of its own, what the head has now is the full one
        self._heads = [(m, getattr(m, 'eps_train', m.eps)) for m in heads]
        self.schedule = self._lay_out(runner)
        self._check_lam(runner, heads)
        self._done = runner.iter
        _tell(runner, None)
        _check_optimizer(runner)
        if self.lr:
            if runner.param_schedulers:
                raise ConfigError(
                    'PNormScheduleHook(lr=True) sets the learning rate; '
                    'remove param_scheduler from the config, or lr=True.')
            for group in _groups(runner):
                group.setdefault('initial_lr', group['lr'])

    def _check_lam(self, runner: Runner, heads: List[nn.Module]) -> None:
        """Refuse a fresh network that would learn nothing.

        One that was trained has right images to go on from: its head warns.
        """
        if runner._has_loaded:
            return
        for head in heads:
            lam = head.lam if self.lam is None else self.lam[0]
            if not lam and getattr(head, 'needs_lam', False):
                raise ConfigError(LACKS_LAM)

    def _lay_out(self, runner: Runner) -> LpSchedule:
        per_epoch = epoch_length(runner.train_dataloader)
        length = runner.max_iters / per_epoch
        epochs = self.epochs
        if epochs[4] == 1:
            epochs = tuple(e * length for e in epochs)
        elif length <= epochs[3]:
            print_log(
                f'The run ends after {length:g} epochs, but p becomes '
                f'infinite after {epochs[3]:g}: its result can be trained '
                'on, not certified. Shorten the schedule with the run.',
                logger='current',
                level=logging.WARNING)
        pairs = {
            name: tuple(getattr(self, name))
            for name in ('lam', 'kappa') if getattr(self, name) is not None
        }
        return LpSchedule(epochs, per_epoch, **self.options, **pairs)

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Set everything for this iteration and log it."""
        values = self._apply(runner, runner.iter)
        for name, value in values.items():
            runner.message_hub.update_scalar(f'train/{name}', value)

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Count; a checkpoint may be saved next."""
        self._done = runner.iter + 1
        sync_running_means(runner, _unwrapped(runner))

    def after_train_epoch(self, runner: Runner) -> None:
        """Before validation and saving, one network in all processes."""
        sync_running_means(runner, _unwrapped(runner), epoch_ends=True)

    def after_train(self, runner: Runner) -> None:
        """The final state: p of the iteration after the last one."""
        self._apply(runner, self._done)

    def _apply(self, runner: Runner, t: int) -> dict:
        p = self.schedule.p(t)
        for layer in self._layers:
            layer.p = p
        for group in _groups(runner):
            if group.get('p_norm') is not None:
                group['p_norm'] = p
            if self.lr:
                group['lr'] = group['initial_lr'] * self.schedule.lr(t)
        values = dict(p=p)
        for head, full in self._heads:
            if self.eps_train is not None:
                full = self.eps_train
            head.eps = full * self.schedule.eps(t)
            if self.lam is not None:
                head.lam = self.schedule.lam_at(t)
            if self.kappa is not None:
                head.kappa = self.schedule.kappa_at(t)
            values.update(eps=head.eps, kappa=head.kappa, lam=head.lam)
        return values

    # Evaluation is always at p = inf ----------------------------------------

    def before_val_epoch(self, runner: Runner) -> None:
        """Let validation see p = inf."""
        self._infinite(runner)
        finite = [p for _, p in self._kept if not math.isinf(p)]
        if finite and not self._warned:
            self._warned = True
            print_log(
                f'Validation at p = inf in the middle of the schedule (p = '
                f'{finite[0]:.4g}): unless the running means are '
                'recalibrated, its numbers say little until p is above 200.',
                logger='current',
                level=logging.WARNING)

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Give training its p back."""
        self._restore()

    def before_test_epoch(self, runner: Runner) -> None:
        """Let the test see p = inf."""
        self._infinite(runner)

    def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Give the layers their p back."""
        self._restore()

    def _infinite(self, runner: Runner) -> None:
        layers = self._layers or distance_modules(_unwrapped(runner))
        self._kept = [(layer, layer.p) for layer in layers]
        for layer, _ in self._kept:
            layer.p = math.inf

    def _restore(self) -> None:
        for layer, p in self._kept:
            layer.p = p
        self._kept = []

    # Checkpoints -------------------------------------------------------------

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Note the p of the saved running means.

        A hook that has gathered others (``LipschitzEMAHook``) has noted
        theirs.
        """
        if self.schedule is not None:
            checkpoint.setdefault('lp_norm', self.schedule.p(self._done))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Tell the model the p of the loaded running means."""
        p = saved_p(checkpoint)
        _tell(runner, p)
        if p is not None and not math.isinf(p) and not runner._resume:
            print_log(
                f'The checkpoint was saved at p = {p:.4g}, in the middle of '
                'the schedule; its running means do not fit p = inf, for '
                'which alone there are certificates. To certify, train on '
                'with --resume and load the last checkpoint.',
                logger='current',
                level=logging.WARNING)


def _unwrapped(runner: Runner) -> nn.Module:
    model = runner.model
    return model.module if is_model_wrapper(model) else model


def _tell(runner: Runner, p: Optional[float]) -> None:
    """A model that certifies asks at which p its means were gathered."""
    model = _unwrapped(runner)
    if hasattr(model, 'trained_p'):
        model.trained_p = p


def _groups(runner: Runner) -> Iterator[dict]:
    wrapper = runner.optim_wrapper
    for part in getattr(wrapper, 'optim_wrappers', {'': wrapper}).values():
        yield from part.param_groups


def _pair(name: str, value: Any) -> Optional[Tuple[float, float]]:
    if value is None:
        return None
    if not isinstance(value, Sequence) or len(value) != 2 or not all(
            is_number(number, 0) for number in value):
        raise ConfigError(f'{name} of PNormScheduleHook is a pair, at the '
                          f'start and at the end, such as (0.05, 0.0002), '
                          f'but got {value!r}.')
    return tuple(value)


def _check_optimizer(runner: Runner) -> None:
    """AdamWLp without groups that have a p would decay as plain AdamW."""
    groups = [g for g in _groups(runner) if 'p_norm' in g]
    if groups and all(group['p_norm'] is None
                      for group in groups) and any(group['weight_decay']
                                                   for group in groups):
        raise ConfigError(
            "The optimizer decays in the l_p norm, but no group has a p_norm. "
            "Set optim_wrapper.constructor='mmext.LpOptimWrapperConstructor'.")
