# Copyright (c) mmext contributors. All rights reserved.
"""Methods that learn nothing: the source model and batch statistics."""
from typing import Optional

from mmengine.optim import OptimWrapper

from mmext.registry import TASK_UTILS
from .base_adaptation import BaseAdaptation, StepResult
from .frame import Frame


@TASK_UTILS.register_module()
class SourceOnly(BaseAdaptation):
    """Predict with the unchanged source model.

    Args:
        multi_view (bool): Average over all views of the pipeline (the
            softmax, or the logarithm of depth) instead of using the
            reference view. Defaults to False.
        reference_view (int, optional): Index of the reference view.
            Defaults to None, the only unmirrored view.
        batch_stats (bool): See :class:`BaseAdaptation`. Defaults to False.
        task (dict, optional): See :class:`BaseAdaptation`.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.SourceOnly'))
    """

    default_adapt = 'none'

    def __init__(self,
                 multi_view: bool = False,
                 reference_view: Optional[int] = None,
                 batch_stats: bool = False,
                 task: Optional[dict] = None) -> None:
        super().__init__(
            reference_view=reference_view, batch_stats=batch_stats, task=task)
        self.multi_view = multi_view

    @property
    def name(self) -> str:
        """Name in logs and reports."""
        return f'{type(self).__name__}{"(multi-view)" * self.multi_view}'

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict; see :meth:`BaseAdaptation.step`."""
        reference = frame.reference(self.reference_view)
        views = frame.views if self.multi_view else [frame.views[reference]]
        mean, _ = self.task.ensemble(self.model, views,
                                     reference if self.multi_view else 0,
                                     frame.ori_shape)
        return StepResult(self.task.decide(mean))


@TASK_UTILS.register_module()
class BNStats(SourceOnly):
    """Source model with batch-norm statistics of the test image.

    Layers other than batch norm, such as a transformer's layer norm, are
    not concerned.

    Raises:
        ValueError: If the model has no batch-norm layer.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.BNStats'))
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(batch_stats=True, **kwargs)
