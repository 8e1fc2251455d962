# Copyright (c) mmext contributors. All rights reserved.
"""Methods that learn nothing: the source model and batch statistics."""
from contextlib import contextmanager
from typing import Iterator, List, Optional

import torch.nn as nn
from mmengine.optim import OptimWrapper
from torch.nn.modules.batchnorm import _BatchNorm

from mmext.registry import TASK_UTILS
from .base_adaptation import BaseAdaptation, StepResult
from .frame import Frame
from .segmentor_ops import ensemble


@TASK_UTILS.register_module()
class SourceOnly(BaseAdaptation):
    """Predict with the unchanged source model (specification c.4).

    Args:
        multi_view (bool): Average the softmax over all views of the pipeline
            instead of using the reference view. Defaults to False.
        reference_view (int, optional): Index of the reference view.
            Defaults to None, the only unmirrored view.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.SourceOnly'))
    """

    default_adapt = 'none'

    def __init__(self,
                 multi_view: bool = False,
                 reference_view: Optional[int] = None) -> None:
        super().__init__(reference_view=reference_view)
        self.multi_view = multi_view

    @property
    def name(self) -> str:
        return f'{type(self).__name__}{"(multi-view)" * self.multi_view}'

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict; see :meth:`BaseAdaptation.step`."""
        reference = frame.reference(self.reference_view)
        views = frame.views if self.multi_view else [frame.views[reference]]
        mean, _ = ensemble(self.model, views,
                           reference if self.multi_view else 0,
                           frame.ori_shape)
        return StepResult(mean.max(0).indices)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[int]:
    """Let batch-norm layers use the statistics of their input.

    Stored statistics are neither read nor changed. A layer whose input has
    one value per channel (image-level pooling) keeps the stored ones: a
    single value has no variance.

    Yields:
        int: The number of layers concerned.
    """
    layers: List[_BatchNorm] = [
        m for m in model.modules() if isinstance(m, _BatchNorm)
    ]
    before = [(m.training, m.track_running_stats) for m in layers]

    def choose(module, args):
        many = args[0].numel() > args[0].size(1)
        # Without tracking, a module in training mode passes no buffers on.
        module.training, module.track_running_stats = many, not many

    handles = [m.register_forward_pre_hook(choose) for m in layers]
    try:
        yield len(layers)
    finally:
        for handle in handles:
            handle.remove()
        for module, (training, tracking) in zip(layers, before):
            module.training = training
            module.track_running_stats = tracking


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

    def step(self, frame: Frame, optim_wrapper: OptimWrapper) -> StepResult:
        """Predict; see :meth:`BaseAdaptation.step`."""
        with batch_statistics(self.model) as layers:
            if not layers:
                raise ValueError(
                    'BNStats needs a model with batch-norm layers, but '
                    f'{type(self.model).__name__} has none. Use SourceOnly.')
            return super().step(frame, optim_wrapper)
