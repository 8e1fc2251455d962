# Copyright (c) mmext contributors. All rights reserved.
"""TENT for segmentation (arXiv 2006.10726)."""
from typing import Optional

import torch
import torch.nn.functional as F
from mmengine.optim import OptimWrapper
from torch import Tensor

from mmext.registry import TASK_UTILS
from mmext.utils.user_error import ConfigError
from .base_adaptation import BaseAdaptation, StepResult
from .frame import Frame
from .segmentor_ops import ensemble, student_logits


def mean_entropy(logits: Tensor) -> Tensor:
    r"""Mean over pixels of the softmax entropy.

    .. math:: -\frac{1}{HW}\sum_{jl}\sum_c p_c \log p_c

    Args:
        logits (Tensor): Shape (N, C, H, W).

    Returns:
        Tensor: Scalar.
    """
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


@TASK_UTILS.register_module()
class Tent(BaseAdaptation):
    """Adapt the affine parameters of all normalisation layers.

    The loss is the hard-label cross-entropy on the model's own arg-max, as
    in CoTTA's segmentation variant, or the mean softmax entropy of the TENT
    paper (arXiv:2006.10726). The scored output is the prediction before the
    step.

    Args:
        loss (str): ``'pseudo_label'`` or ``'entropy'``.
            Defaults to ``'pseudo_label'``.
        adapt (str): What adapts. Defaults to ``'norm'``.
        reference_view (int, optional): Index of the view used.
            Defaults to None, the only unmirrored view.
        batch_stats (bool): As the TENT paper has it for batch norm; see
            :class:`BaseAdaptation`. Defaults to False, as for the
            transformers of the segmentation benchmarks.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.Tent', loss='entropy'))
    """

    default_adapt = 'norm'

    def __init__(self,
                 loss: str = 'pseudo_label',
                 adapt: Optional[str] = None,
                 reference_view: Optional[int] = None,
                 batch_stats: bool = False) -> None:
        super().__init__(adapt, reference_view, batch_stats)
        if loss not in ('pseudo_label', 'entropy'):
            raise ConfigError(
                f"Tent's loss is 'pseudo_label' or 'entropy', got {loss!r}.")
        self.loss = loss

    @property
    def name(self) -> str:
        """Name in logs and reports."""
        return f'Tent{"(entropy)" * (self.loss == "entropy")}'

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict, then adapt; see :meth:`BaseAdaptation.step`."""
        index = frame.reference(self.reference_view)
        view = frame.views[index]
        probs, _ = ensemble(self.model, [view], 0, frame.ori_shape)
        labels = probs.max(0).indices

        with torch.enable_grad(), optim_wrapper.optim_context(self.model):
            if self.loss == 'entropy':
                # Resized first to the view, then to the original size, as
                # the prediction is.
                logits = student_logits(self.model, view, view.x, view.size)
                logits = F.interpolate(
                    logits,
                    size=frame.ori_shape,
                    mode='bilinear',
                    align_corners=self.model.align_corners)
                loss = mean_entropy(logits)
            else:
                logits = student_logits(self.model, view, view.x,
                                        frame.ori_shape)
                loss = F.cross_entropy(logits, labels[None])
        skipped = self.update_student(loss, optim_wrapper)
        return StepResult(
            labels, dict(loss=float(loss.detach())), skipped=skipped)
