# Copyright (c) mmext contributors. All rights reserved.
"""CoTTA for dense prediction (arXiv 2203.13591)."""
from copy import deepcopy
from typing import Optional, Tuple, Union

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmext.models.teachers import anchor_gate, stochastic_restore
from mmext.registry import TASK_UTILS
from mmext.utils.user_error import ConfigError
from .base_adaptation import PROMPT, BaseAdaptation, StepResult
from .frame import Frame, View
from .segmentor_ops import PromptFn


@TASK_UTILS.register_module()
class CoTTA(BaseAdaptation):
    """Mean teacher over many views, anchor gate and stochastic restore.

    One frame, in order: the source model's confidence on the reference view;
    the teacher's labels, averaged over the views except where the source is
    sure; one step of the student on these hard labels; EMA of the teacher;
    random return of single parameters to the source (arXiv:2203.13591). The
    labels are also the scored prediction.

    Args:
        decay (float): EMA decay of the teacher. Defaults to 0.999.
        anchor_threshold (float | str, optional): Bound of the gate, None for
            no gate. Defaults to ``'auto'``, the task's: 0.69 for classes,
            None for depth.
        restore_prob (float): Chance of each parameter to return to its
            source value. Defaults to 0.01.
        adapt (str): What adapts. Defaults to ``'all'``.
        reset_optimizer (str): ``'never'``, or ``'domain'`` to rebuild the
            optimizer's state at each domain, which uses knowledge of the
            domain border (as published). Defaults to ``'never'``.
        views_per_batch (int): Views of one size that share a teacher's
            forward pass. Defaults to 2.
        reference_view (int, optional): Index of the reference view.
            Defaults to None, the only unmirrored view.
        batch_stats (bool): See :class:`BaseAdaptation`. Defaults to False.
        task (dict, optional): See :class:`BaseAdaptation`.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.CoTTA', reference_view=4))
    """

    needs_teacher = True
    needs_source = True

    def __init__(self,
                 decay: float = 0.999,
                 anchor_threshold: Union[float, str, None] = 'auto',
                 restore_prob: float = 0.01,
                 adapt: Optional[str] = None,
                 reset_optimizer: str = 'never',
                 views_per_batch: int = 2,
                 reference_view: Optional[int] = None,
                 batch_stats: bool = False,
                 task: Optional[dict] = None) -> None:
        super().__init__(adapt, reference_view, batch_stats, task)
        if anchor_threshold == 'auto':
            anchor_threshold = self.task.anchor_threshold
        if reset_optimizer not in ('never', 'domain'):
            raise ConfigError("reset_optimizer is 'never' or 'domain', got "
                              f'{reset_optimizer!r}.')
        for name, value in (('restore_prob', restore_prob), ('decay', decay)):
            if not 0 <= value <= 1:
                raise ConfigError(f'{name} lies in [0, 1], but got '
                                  f'{value!r}.')
        if views_per_batch < 1:
            raise ConfigError('views_per_batch is at least 1, but got '
                              f'{views_per_batch!r}.')
        self.decay = decay
        self.anchor_threshold = anchor_threshold
        self.restore_prob = restore_prob
        self.reset_optimizer = reset_optimizer
        self.views_per_batch = views_per_batch
        self.anchor: Optional[nn.Module] = None

    def teacher_options(self) -> dict:
        """Decay of the teacher, see :class:`GroupEMA`."""
        return dict(decay=self.decay)

    def start(self, model, teacher, source) -> None:
        """Build the anchor; see :meth:`BaseAdaptation.start`."""
        super().start(model, teacher, source)
        if self.anchor_threshold is not None:
            self.anchor = deepcopy(teacher.module)
            self.anchor.load_state_dict(source, strict=True)

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict, then adapt; see :meth:`BaseAdaptation.step`."""
        index = frame.reference(self.reference_view)
        view = frame.views[index]
        labels, log = self.pseudo_label(
            frame, index, lambda v: self.network_input(self.teacher.module, v))

        with torch.enable_grad(), optim_wrapper.optim_context(self.model):
            x = self.network_input(self.model, view)
            output = self.task.student_map(self.model, view, x,
                                           frame.ori_shape)
            loss = self.task.loss(output, labels)
        skipped = self.update_student(loss, optim_wrapper)
        if not skipped:
            self.teacher.update(self.model)
            self.restore()
        log.update(loss=float(loss.detach()))
        return StepResult(labels, log, skipped=skipped)

    @staticmethod
    def network_input(network: nn.Module, view: View) -> Tensor:
        """What ``network`` sees of a view: its pixels, or prompted ones."""
        return view.x

    def pseudo_label(self,
                     frame: Frame,
                     index: int,
                     prompt: Optional[PromptFn] = None) -> Tuple[Tensor, dict]:
        """The teacher's prediction, gated by the source model.

        Args:
            frame (Frame): The frame.
            index (int): Its reference view.
            prompt (Callable, optional): Maps a view to its prompted input.

        Returns:
            tuple[Tensor, dict]: Labels (H0, W0) and scalars for the log.
        """
        mean, single = self.task.ensemble(self.teacher.module, frame.views,
                                          index, frame.ori_shape, prompt,
                                          self.views_per_batch)
        average = self.task.decide(mean)
        if self.anchor is None:
            return average, {}
        confidence, anchor_labels = self.anchor_confidence(
            frame.views[index], frame, single)
        labels = anchor_gate(
            self.task.decide(single), average, confidence,
            self.anchor_threshold)
        sure = (confidence > self.anchor_threshold).float().mean()
        return labels, dict(
            anchor_sure=float(sure),
            anchor_agreement=self.task.agreement(labels, anchor_labels))

    def anchor_confidence(
            self,
            view: View,
            frame: Frame,
            single: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """How sure the source is of a view, per pixel, and its prediction.

        Args:
            view (View): The reference view.
            frame (Frame): Its frame.
            single (Tensor, optional): The teacher's map of this view, which
                the confidence in a depth depends on.
        """
        maps = self.task.view_maps(self.anchor, [view], view.x,
                                   frame.ori_shape)[0]
        return self.task.confidence(maps, single)

    def restore(self) -> None:
        """Stochastic restore of the student, prompt excepted."""
        stochastic_restore(
            self.model,
            self.source,
            self.restore_prob,
            self.rng,
            skip=lambda name: name.startswith(f'{PROMPT}.'))

    def extra_info(self) -> dict:
        """Entries for the run's report."""
        return dict(
            super().extra_info(),
            decay=self.decay,
            anchor_threshold=self.anchor_threshold,
            restore_prob=self.restore_prob)
