# Copyright (c) mmext contributors. All rights reserved.
"""The owner of a mean teacher."""
from contextlib import contextmanager
from typing import Dict, Iterator, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmext.models.teachers import GroupEMA
from mmext.registry import HOOKS, register_depth
from mmext.utils.user_error import ConfigError


@register_depth(HOOKS)
class MeanTeacherHook(Hook):
    r"""Create, update, save and resume the teacher of a student.

    The runner's model is the student. The teacher is copied from it before
    training, once weights are loaded, and follows it by

    .. math:: \theta_T \leftarrow \alpha \theta_T + (1 - \alpha) \theta_S

    A checkpoint's ``state_dict`` holds the teacher under the host's plain
    keys, so stock tools evaluate the teacher, and ``ema_state_dict`` holds
    the student; ``save='student'`` keeps the student under the plain keys
    and the teacher in ``teacher_state_dict``. Losses and loops ask the hook
    for :attr:`teacher`.

    Args:
        decay (float): alpha, the weight that the teacher keeps.
            Defaults to 0.999.
        groups (dict[str, float], optional): Decay by regular expression, see
            :class:`~mmext.models.teachers.GroupEMA`. Defaults to None.
        update (str): ``'iter'`` averages after every training iteration in
            which the optimiser has made a step; ``'manual'`` leaves it to
            whoever uses the teacher. Defaults to ``'iter'``.
        update_buffers (bool, optional): Copy buffers too. Defaults to None:
            yes with ``update='iter'``, where training moves the student's
            batch statistics and a teacher with those of the start would be
            of no use; no with ``'manual'``.
        evaluate (str): Which weights validation sees, ``'teacher'`` or
            ``'student'``. Defaults to ``'teacher'``.
        save (str): Which weights a checkpoint's ``state_dict`` holds.
            Defaults to ``'teacher'``.
        begin (int): The first training iteration after which to average.
            Defaults to 0.

    Examples:
        >>> custom_hooks = [dict(type='mmext.MeanTeacherHook', decay=0.999)]
    """

    priority = 'NORMAL'

    def __init__(self,
                 decay: float = 0.999,
                 groups: Optional[Dict[str, float]] = None,
                 update: str = 'iter',
                 update_buffers: Optional[bool] = None,
                 evaluate: str = 'teacher',
                 save: str = 'teacher',
                 begin: int = 0) -> None:
        if update not in ('iter', 'manual'):
            raise ConfigError(
                f"Expected update to be 'iter' or 'manual' (a loss or loop "
                f'calls it), but got {update!r}.')
        for name, value in (('evaluate', evaluate), ('save', save)):
            if value not in ('teacher', 'student'):
                raise ConfigError(
                    f"Expected {name} to be 'teacher' or 'student', but got "
                    f'{value!r}.')
        if update_buffers is None:
            update_buffers = update == 'iter'
        self.options = dict(
            decay=decay, groups=groups, update_buffers=update_buffers)
        self.update = update
        self.evaluate, self.save, self.begin = evaluate, save, begin
        self._teacher: Optional[GroupEMA] = None
        self._resumed: Optional[dict] = None

    @property
    def teacher(self) -> GroupEMA:
        """The teacher.

        Raises:
            RuntimeError: Before training has begun.
        """
        if self._teacher is None:
            raise RuntimeError(
                'MeanTeacherHook has no teacher yet: it is copied from the '
                'student in before_train, when the weights are loaded.')
        return self._teacher

    @property
    def has_teacher(self) -> bool:
        """bool: Whether training has begun."""
        return self._teacher is not None

    @contextmanager
    def exchanged(self, runner: Runner) -> Iterator[None]:
        """While it lasts, the runner's model and the teacher swap weights."""
        self._exchange(runner)
        try:
            yield
        finally:
            self._exchange(runner)

    def before_train(self, runner: Runner) -> None:
        """Copy the student, or restore the resumed teacher.

        Raises:
            ConfigError: If there is an ``EMAHook`` or another hook of this
                kind, which would put its average where the student belongs
                in a checkpoint.
        """
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise ConfigError(
                f'{type(self).__name__} and EMAHook both keep an average of '
                'the model in checkpoints, and a resumed run would go on '
                'with the wrong one. Take EMAHook out of custom_hooks.')
        others = [
            type(hook).__name__ for hook in runner.hooks
            if isinstance(hook, MeanTeacherHook) and hook is not self
        ]
        if others:
            raise ConfigError(
                f'{type(self).__name__} and {others[0]} both keep a teacher '
                'in checkpoints, and a resumed run would go on with the wrong '
                'one. Leave one of them in custom_hooks; a '
                'TestTimeAdaptLoop brings its own, so that none belongs '
                'there.')
        self._teacher = GroupEMA(_unwrapped(runner), **self.options)
        if self._resumed is not None:
            own = self._teacher.module.state_dict()
            own.update(self._resumed)
            self._teacher.module.load_state_dict(own)
            self._resumed = None

    def after_train_iter(self,
                         runner: Runner,
                         batch_idx: int,
                         data_batch=None,
                         outputs=None) -> None:
        """Average, if ``update='iter'``."""
        if self.update == 'iter' and runner.iter >= self.begin \
                and _stepped(runner):
            self.teacher.update(_unwrapped(runner))

    def before_val_epoch(self, runner: Runner) -> None:
        """Let validation see the teacher."""
        self._swap(runner)

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        """Give the student back to training."""
        self._swap(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the teacher as the model and the student beside it."""
        if self._teacher is not None and is_main_process():
            teacher = {
                key: value.detach().cpu().clone()
                for key, value in self.teacher.module.state_dict().items()
            }
            if self.save == 'student':
                checkpoint['teacher_state_dict'] = teacher
            else:
                checkpoint['ema_state_dict'] = checkpoint['state_dict']
                checkpoint['state_dict'] = teacher

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """On resume, give the student to the runner and keep the teacher."""
        # A plain load starts a new student from the (averaged) model.
        if runner._resume and 'ema_state_dict' in checkpoint:
            self._resumed = checkpoint['state_dict']
            checkpoint['state_dict'] = checkpoint['ema_state_dict']
        elif runner._resume and 'teacher_state_dict' in checkpoint:
            self._resumed = checkpoint['teacher_state_dict']

    def _swap(self, runner: Runner) -> None:
        if self.evaluate == 'teacher' and self.has_teacher:
            self._exchange(runner)

    def _exchange(self, runner: Runner) -> None:
        student, teacher = _unwrapped(runner), self.teacher.module
        # Buffers as well: validation scores just what a checkpoint holds.
        pairs = [
            *zip(student.parameters(), teacher.parameters()),
            *zip(student.buffers(), teacher.buffers())
        ]
        for mine, theirs in pairs:
            mine.data, theirs.data = theirs.data, mine.data


def _stepped(runner: Runner) -> bool:
    """With gradient accumulation not every iteration makes a step."""
    wrapper = runner.optim_wrapper
    return not isinstance(wrapper, OptimWrapper) or wrapper.should_update()


def _unwrapped(runner: Runner) -> nn.Module:
    model = runner.model
    return model.module if is_model_wrapper(model) else model
