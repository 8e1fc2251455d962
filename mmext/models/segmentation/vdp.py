# Copyright (c) mmext contributors. All rights reserved.
"""A dense visual prompt in the spirit of VDP (arXiv 2212.04145)."""
from typing import Optional, Tuple, Union

import torch.nn as nn
from torch import Tensor

from mmext.models.prompts import DenseVisualPrompt
from mmext.registry import TASK_UTILS
from .base_adaptation import PROMPT
from .cotta import CoTTA
from .frame import View


@TASK_UTILS.register_module()
class VDP(CoTTA):
    r"""VDP-like: the network is frozen, only a dense prompt adapts.

    The published sizes and rates for segmentation are not available, so this
    is a re-creation with settings of our own: two maps (domain-specific and
    domain-agnostic) of the *size of the reference view*, *starting from
    zero*, whose sum is added to the normalised image of every view; learning
    rate from the optimizer wrapper (shipped configs: Adam, 1e-3); teacher
    prompt by *EMA with decay 0.999*; target and loss as in :class:`CoTTA`,
    without restore, since the network never moves. The agnostic map is
    damped where it is sensitive to the domain: its gradient is scaled by

    .. math:: 1 / (1 + |g| / \overline{|g|})

    Args:
        std (float): Standard deviation of the start values. Defaults to 0.0.
        decay (float): EMA decay of the prompt. Defaults to 0.999.
        anchor_threshold (float | str, optional): Bound of the gate.
            Defaults to ``'auto'``, the task's.
        views_per_batch (int): Views per teacher pass. Defaults to 2.
        reference_view (int, optional): Index of the reference view.
        task (dict, optional): See :class:`BaseAdaptation`.

    Examples:
        >>> train_cfg = dict(
        ...     type='mmext.TestTimeAdaptLoop',
        ...     method=dict(type='mmext.VDP', reference_view=4))
    """

    default_adapt = 'prompt'

    def __init__(self,
                 std: float = 0.,
                 decay: float = 0.999,
                 anchor_threshold: Union[float, str, None] = 'auto',
                 views_per_batch: int = 2,
                 reference_view: Optional[int] = None,
                 task: Optional[dict] = None) -> None:
        super().__init__(
            decay=decay,
            anchor_threshold=anchor_threshold,
            restore_prob=0.,
            views_per_batch=views_per_batch,
            reference_view=reference_view,
            task=task)
        self.std = std

    @property
    def name(self) -> str:
        """Name in logs and reports."""
        return 'VDP-like'

    def prepare(self,
                model: nn.Module,
                size: Tuple[int, int],
                seed: int,
                channels: int = 3) -> None:
        """Attach the prompt; see :meth:`BaseAdaptation.prepare`."""
        prompt = DenseVisualPrompt(size, channels, self.std, seed)
        model.add_module(PROMPT, prompt.to(next(model.parameters()).device))
        super().prepare(model, size, seed, channels)

    @staticmethod
    def network_input(network: nn.Module, view: View) -> Tensor:
        """The view with the prompt of ``network``."""
        prompt = getattr(network, PROMPT)
        return prompt(view.x, flip=-1 in view.flip_dims)

    def check_gradients(self) -> None:
        """Damp the agnostic map where the domain moves it most.

        Raises:
            RuntimeError: If no gradient reached the prompt.
        """
        grad = getattr(self.model, PROMPT).agnostic.grad
        if grad is None:
            raise RuntimeError(
                'VDP: no gradient reached the prompt, so it would never '
                'train. Check that nothing between the image and the loss is '
                'under no_grad or detached (frozen stages that run without '
                'gradients, for instance).')
        mean = grad.abs().mean()
        if mean > 0:
            grad.div_(1 + grad.abs() / mean)
