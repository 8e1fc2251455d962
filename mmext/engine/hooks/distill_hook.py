# Copyright (c) mmext contributors. All rights reserved.
"""Teachers for the distilling stages of BiCross."""
from typing import Any, Optional

from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch import nn

from mmext.models.distillers.hand_over import (NEW_PARTS, STEM_STARTS,
                                               check_weights, load_weights,
                                               new_stems, weights_of)
from mmext.registry import HOOKS, register_depth
from mmext.utils.config_paths import init_cfgs
from mmext.utils.user_error import ConfigError
from .mean_teacher_hook import MeanTeacherHook

# In the message hub: optimiser steps of the warm-up that were left out.
LOST_STEPS = 'bicross/lost_steps'


@register_depth(HOOKS)
class DistillHook(Hook):
    """Attach the teacher of ``CrossModalityDistiller`` or of
    ``CrossDomainAdapter``, and check what is handed over.

    Stage 2: build the teacher, load it from its checkpoint, freeze it. If
    the run loads nothing else, the student starts from the same file, all
    but its first convolution (see ``stem`` of the model), unless the model's
    ``teacher`` is another network. Stage 3: attach the teacher of
    ``MeanTeacherHook``, which begins to follow after the warm-up, and warn
    if the student starts from random weights: no ``load_from``, nothing to
    resume and no checkpoint in an ``init_cfg`` of the whole network.

    Every checkpoint that the run loads must hold the whole estimator, and
    its first convolution must take the right input: spikes, or RGB where
    the training of stage 2 replaces it. Anything else ends the run with a
    message.

    Args:
        teacher_ckpt (str, optional): Instead of the model's
            ``teacher_ckpt``.
        init_student (bool): Stage 2: start the student from the teacher if
            nothing is loaded and both are of one kind. Defaults to True.

    Raises:
        ConfigError: While training begins, if a checkpoint, a hook or the
            model does not fit.
        MissingFileError: If there is no checkpoint of the name.

    Example:
        >>> custom_hooks = [dict(type='mmext.DistillHook')]
    """

    # after MeanTeacherHook (NORMAL) has made its teacher
    priority = 'BELOW_NORMAL'

    def __init__(self,
                 teacher_ckpt: Optional[str] = None,
                 init_student: bool = True) -> None:
        self.teacher_ckpt = teacher_ckpt
        self.init_student = init_student
        self._scale = 0.
        self._stepped: Optional[bool] = None  # None: nobody tells

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse a checkpoint of another network or of another input."""
        model = _wrapper(runner)
        name = str(runner._load_from or 'The checkpoint')
        resumed = bool(runner._resume)
        # what is tested must be whole; a loop is built when its run begins
        training = isinstance(runner._train_loop, BaseLoop)
        weights = weights_of(checkpoint, name)
        left = check_weights(model, weights, name, model.new_stem and training
                             and not resumed, () if resumed else NEW_PARTS)
        stems = new_stems(model, weights, left, model.stem) if left else {}
        for key in left:
            runner.logger.info(
                f'{name} is an RGB network: {key} of the spike network '
                f'{STEM_STARTS[model.stem]}.')
            del weights[key]
        if left or 'state_dict' not in checkpoint:
            # the runner reads no other key
            checkpoint['state_dict'] = dict(weights, **stems)

    def before_train(self, runner: Runner) -> None:
        """Attach the teacher."""
        model = _wrapper(runner)
        if hasattr(model, 'build_teacher'):
            self._attach_frozen(runner, model)
        else:
            self._check_start(runner, model)
            self._attach_mean(runner, model)
            self._check_parallel(runner, model)
            self._count_steps(runner)

    def _attach_frozen(self, runner: Runner, model: nn.Module) -> None:
        path = self.teacher_ckpt or model.teacher_ckpt
        if path is None:
            raise ConfigError(
                'Stage 2 distils from the RGB network of stage 1, and has no '
                'checkpoint of it: set model.teacher_ckpt, or run all stages '
                'with tools/train_bicross.py.')
        teacher = model.build_teacher()
        load_weights(teacher, path, optional=())
        model.attach_teacher(teacher)
        if self.init_student and runner.iter == 0 and \
                runner._load_from is None:
            self._start_student(runner, model, path)

    @staticmethod
    def _start_student(runner: Runner, model: nn.Module, path: str) -> None:
        try:
            load_weights(model.student, path, new_stem=True, stem=model.stem)
        except ConfigError as error:
            if not model.own_teacher:
                raise
            runner.logger.warning(
                'The student starts from its own weights, not from those of '
                f'the teacher, which is another network: {error}')

    @staticmethod
    def _check_start(runner: Runner, model: nn.Module) -> None:
        """Pseudo-labels of random weights are noise; the run looks fine."""
        if runner.iter or runner._load_from is not None:
            return
        given = [
            cfg for part in (model, model.estimator) for cfg in init_cfgs(part)
        ]
        if any(cfg.get('checkpoint') for cfg in given):
            return
        runner.logger.warning(
            'Stage 3 STARTS FROM RANDOM WEIGHTS: there is no load_from, so '
            'the mean teacher labels the target with noise. Set '
            "load_from='.../stage2/epoch_10.pth', what stage 2 has written, "
            'or run all stages with tools/train_bicross.py. (A model that '
            'was given its weights before the runner got it is fine.)')

    @staticmethod
    def _attach_mean(runner: Runner, model: nn.Module) -> None:
        hook = next(
            (one for one in runner.hooks if isinstance(one, MeanTeacherHook)),
            None)
        if hook is None:
            if 'scp' in model.losses:
                raise ConfigError(
                    "The loss 'scp' needs a mean teacher: add "
                    "dict(type='mmext.MeanTeacherHook', decay=0.999, "
                    "evaluate='student', save='student') to custom_hooks.")
            return
        hook.begin = max(hook.begin, model.warmup_iters * _accumulated(runner))
        model.attach_teacher(hook.teacher.module)

    def _count_steps(self, runner: Runner) -> None:
        """Notice the steps that the optimizer takes."""
        optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
        if optimizer is None:
            return

        def took(*args: Any) -> None:
            self._stepped = True

        self._stepped = True
        optimizer.register_step_post_hook(took)

    @staticmethod
    def _check_parallel(runner: Runner, model: nn.Module) -> None:
        """Some parameters have no gradient in some iterations."""
        if get_world_size() == 1 or not is_model_wrapper(runner.model):
            return
        uneven = 'sup' not in model.losses or ('sca' in model.losses
                                               and model.warmup_iters > 0)
        if uneven and not getattr(runner.model, 'find_unused_parameters',
                                  True):
            raise ConfigError(
                'In stage 3 some heads get no gradient in some iterations: '
                'set find_unused_parameters=True in the config to train '
                'with several processes.')

    def before_train_iter(self,
                          runner: Runner,
                          batch_idx: int,
                          data_batch: Any = None) -> None:
        """Tell the model how far the training is."""
        model = _wrapper(runner)
        lost = runner.message_hub.runtime_info.get(LOST_STEPS, 0)
        model.step = runner.iter // _accumulated(runner) - lost
        if _warming_up(model):
            self._scale = _loss_scale(runner)
            if runner.iter % _accumulated(runner) == 0 and \
                    self._stepped is not None:
                self._stepped = False
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            model.progress = runner.epoch / runner.max_epochs
        else:
            model.progress = runner.iter / runner.max_iters

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch: Any = None,
                         outputs: Optional[dict] = None) -> None:
        """Let the warm-up wait for steps that float16 could not take.

        The optimizer was not called, or, where it looks at the gradients
        itself (``fused``), the loss scale has fallen. It begins so high that
        the first steps of a training are the ones.
        """
        if not _warming_up(_wrapper(runner)):
            return
        due = (runner.iter + 1) % _accumulated(runner) == 0
        if (due and self._stepped is False) or \
                _loss_scale(runner) < self._scale:
            hub = runner.message_hub
            # saved in checkpoints with the rest of the hub
            hub.update_info(LOST_STEPS,
                            hub.runtime_info.get(LOST_STEPS, 0) + 1)


def _warming_up(model: nn.Module) -> bool:
    return model.step is not None and \
        model.step < getattr(model, 'warmup_iters', 0)


def _loss_scale(runner: Runner) -> float:
    """Scale of a loss in float16; 0 without."""
    scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
    return scaler.get_scale() if hasattr(scaler, 'get_scale') else 0.


def _wrapper(runner: Runner) -> nn.Module:
    model = runner.model
    model = model.module if is_model_wrapper(model) else model
    if not hasattr(model, 'attach_teacher'):
        raise ConfigError(
            'DistillHook is for mmext.CrossModalityDistiller and '
            f'mmext.CrossDomainAdapter, but the model is a '
            f'{type(model).__name__}. Take the hook out of custom_hooks.')
    return model


def _accumulated(runner: Runner) -> int:
    return int(getattr(runner.optim_wrapper, '_accumulative_counts', 1))
