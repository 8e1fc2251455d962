# Copyright (c) mmext contributors. All rights reserved.
"""A backbone whose input carries a visual prompt."""
from typing import Any, Dict

import torch
from mmengine.model import BaseModule
from torch import Tensor

from mmext.registry import MODELS
from .functional import place_prompts


@MODELS.register_module()
class PromptedBackbone(BaseModule):
    """Wrap any backbone so that a prompt is added to its input.

    ``f(x + M(P))``: the entries sit on the pixels in :attr:`positions`, which
    :meth:`place` computes from an uncertainty map. Without positions the
    wrapped backbone sees the plain image. State-dict keys of the wrapped
    backbone stay as they are, whatever the prefix, so plain checkpoints load
    and the result loads elsewhere; the prompt is stored as ``prompt.*``.

    Test-time adaptation does not need this wrapper: its methods add the
    prompt to the whole view before sliding windows are cut. It serves plain
    training, in either host.

    Args:
        backbone (dict): Config of the backbone.
        prompt (dict): Config of a :class:`SparseVisualPrompt`.

    Examples:
        >>> model = dict(backbone=dict(
        ...     type='mmext.PromptedBackbone',
        ...     backbone=dict(type='MixVisionTransformer'),
        ...     prompt=dict(type='mmext.SparseVisualPrompt',
        ...                 size=(512, 1024))))
    """

    def __init__(self, backbone: dict, prompt: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.prompt = MODELS.build(prompt)
        self.positions: Dict[tuple, Tensor] = {}
        self._register_state_dict_hook(self._strip_prefix)
        self.register_load_state_dict_pre_hook(self._add_prefix)

    def place(self, uncertainty: Tensor) -> None:
        """Put the entries on the most uncertain pixels of ``uncertainty``.

        Args:
            uncertainty (Tensor): Map of shape (h, w), as large as the input.
        """
        self.positions[tuple(uncertainty.shape)] = place_prompts(
            uncertainty, self.prompt.patch.size(0))

    def forward(self, x: Tensor) -> Any:
        """Features of the prompted image.

        Args:
            x (Tensor): Normalised images, shape (N, C, h, w).

        Returns:
            Any: What the wrapped backbone returns.
        """
        positions = self.positions.get(tuple(x.shape[-2:]))
        if positions is not None:
            x = self.prompt(x, positions.to(x.device))
        return self.backbone(x)

    @staticmethod
    def _strip_prefix(module, state_dict: dict, prefix: str, _) -> None:
        inner = f'{prefix}backbone.'
        for key in [k for k in state_dict if k.startswith(inner)]:
            state_dict[prefix + key[len(inner):]] = state_dict.pop(key)

    @staticmethod
    def _add_prefix(module: torch.nn.Module, state_dict: dict, prefix: str,
                    *args) -> None:
        prompt = f'{prefix}prompt.'
        for key in [k for k in state_dict if k.startswith(prefix)]:
            if not key.startswith(prompt):
                state_dict[f'{prefix}backbone.{key[len(prefix):]}'] = \
                    state_dict.pop(key)
