# Copyright (c) mmext contributors. All rights reserved.
"""Validation of a student and of its mean teacher."""
from typing import Dict

from mmengine.runner import ValLoop

from mmext.registry import LOOPS, register_depth
from mmext.utils.user_error import ConfigError
from ..hooks.mean_teacher_hook import MeanTeacherHook


@register_depth(LOOPS)
class TeacherStudentValLoop(ValLoop):
    """Score both networks of a mean-teacher training.

    The data are passed over twice. Metrics of the network that
    ``MeanTeacherHook.evaluate`` names keep their names, so that ``save_best``
    means that one; those of the other begin with ``'teacher/'`` or
    ``'student/'``. Validation losses of models that return some are left out.

    Args:
        runner (Runner): The runner; needs an ``mmext.MeanTeacherHook``.
        dataloader (DataLoader | dict): Validation data.
        evaluator (Evaluator | dict | list): Metrics.
        fp16 (bool): Evaluate in mixed precision. Defaults to False.

    Raises:
        ConfigError: If there is no ``mmext.MeanTeacherHook``.

    Examples:
        >>> val_cfg = dict(type='mmext.TeacherStudentValLoop')
        >>> custom_hooks = [
        ...     dict(type='mmext.MeanTeacherHook', evaluate='student')]
    """

    def run(self) -> Dict[str, float]:
        """Launch validation."""
        hook = next(
            (h for h in self.runner.hooks if isinstance(h, MeanTeacherHook)),
            None)
        if hook is None:
            raise ConfigError(
                'mmext.TeacherStudentValLoop scores a teacher, but the config '
                "has none. Add dict(type='mmext.MeanTeacherHook') to "
                "custom_hooks, or set val_cfg=dict(type='ValLoop').")
        other = 'student' if hook.evaluate == 'teacher' else 'teacher'
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        others = {}
        if hook.has_teacher:  # not in a validation without training
            with hook.exchanged(self.runner):
                others = {
                    f'{other}/{name}': value
                    for name, value in self._score().items()
                }
        # Last, so that pictures and reports are of the network that counts.
        metrics = self._score()
        metrics.update(others)
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _score(self) -> Dict[str, float]:
        self.runner.model.eval()
        for index, data_batch in enumerate(self.dataloader):
            self.run_iter(index, data_batch)
        return dict(self.evaluator.evaluate(len(self.dataloader.dataset)))
