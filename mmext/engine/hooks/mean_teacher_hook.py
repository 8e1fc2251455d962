# Copyright (c) mmext contributors. All rights reserved.
"""The owner of a mean teacher."""
from typing import Dict, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmext.models.teachers import GroupEMA
from mmext.registry import HOOKS


@HOOKS.register_module()
class MeanTeacherHook(Hook):
    r"""Create, update, save and resume the teacher of a student.

    The runner's model is the student. The teacher is copied from it before
    training, once weights are loaded, and follows it by

    .. math:: \theta_T \leftarrow \alpha \theta_T + (1 - \alpha) \theta_S

    A checkpoint's ``state_dict`` holds the teacher under the host's plain
    keys, so stock tools evaluate the teacher, and ``ema_state_dict`` holds
    the student. Losses and loops ask the hook for :attr:`teacher`.

    Args:
        decay (float): alpha, the weight that the teacher keeps.
            Defaults to 0.999.
        groups (dict[str, float], optional): Decay by regular expression, see
            :class:`~mmext.models.teachers.GroupEMA`. Defaults to None.
        update (str): ``'iter'`` averages after every training iteration;
            ``'manual'`` leaves it to whoever uses the teacher.
            Defaults to ``'iter'``.
        update_buffers (bool, optional): Copy buffers too. Defaults to None:
            yes with ``update='iter'``, where training moves the student's
            batch statistics and a teacher with those of the start would be
            of no use; no with ``'manual'``.
        evaluate (str): Which weights validation sees, ``'teacher'`` or
            ``'student'``. Defaults to ``'teacher'``.

    Examples:
        >>> custom_hooks = [dict(type='mmext.MeanTeacherHook', decay=0.999)]
    """

    priority = 'NORMAL'

    def __init__(self,
                 decay: float = 0.999,
                 groups: Optional[Dict[str, float]] = None,
                 update: str = 'iter',
                 update_buffers: Optional[bool] = None,
                 evaluate: str = 'teacher') -> None:
        if update not in ('iter', 'manual'):
            raise ValueError(
                f"update is 'iter' or 'manual', but got {update!r}.")
        if evaluate not in ('teacher', 'student'):
            raise ValueError(
                f"evaluate is 'teacher' or 'student', but got {evaluate!r}.")
        if update_buffers is None:
            update_buffers = update == 'iter'
        self.options = dict(
            decay=decay, groups=groups, update_buffers=update_buffers)
        self.update = update
        self.evaluate = evaluate
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

    def before_train(self, runner: Runner) -> None:
        """Copy the student, or restore the resumed teacher."""
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
        if self.update == 'iter':
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
            checkpoint['ema_state_dict'] = checkpoint['state_dict']
            checkpoint['state_dict'] = {
                key: value.detach().cpu().clone()
                for key, value in self.teacher.module.state_dict().items()
            }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """On resume, give the student to the runner and keep the teacher."""
        # A plain load starts a new student from the (averaged) model.
        if runner._resume and 'ema_state_dict' in checkpoint:
            self._resumed = checkpoint['state_dict']
            checkpoint['state_dict'] = checkpoint['ema_state_dict']

    def _swap(self, runner: Runner) -> None:
        if self.evaluate == 'student' or self._teacher is None:
            return
        student, teacher = _unwrapped(runner), self.teacher.module
        # Buffers as well: validation scores just what a checkpoint holds.
        pairs = [
            *zip(student.parameters(), teacher.parameters()),
            *zip(student.buffers(), teacher.buffers())
        ]
        for mine, theirs in pairs:
            mine.data, theirs.data = theirs.data, mine.data


def _unwrapped(runner: Runner) -> nn.Module:
    model = runner.model
    return model.module if is_model_wrapper(model) else model
