# Copyright (c) mmext contributors. All rights reserved.
"""How an adapter is split, and the layers that follow from it."""
from dataclasses import dataclass
from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.arguments import set_switches
from mmext.utils.user_error import ConfigError
from .functional import (GRANULARITIES, check_merge_mode, draw_scores,
                         sparse_mask)
from .split_linear import STORAGES, SplitLinear

SPLITS = ('up', 'down', 'both')


class Draw(NamedTuple):
    """One module index per pass, drawn also for a layer that is not split.

    Args:
        layer (nn.Module): The layer that it is for.
        tied (bool): Take the index of the draw before it.
    """
    layer: nn.Module
    tied: bool = False

    @property
    def num_modules(self) -> int:
        """int: N of a split layer, 1 of any other."""
        return self.layer.num_modules if isinstance(self.layer,
                                                    SplitLinear) else 1


@dataclass
class SplitOptions:
    """Options of the split, shared by all layers of an adapter.

    Args:
        num_modules (int): N; 1 is the standard adapter. Defaults to 4.
        split (str): Which projection is split, ``'up'``, ``'down'`` or
            ``'both'`` (the hierarchical strategy).
            Defaults to ``'up'``.
        granularity (str): ``'element'``, ``'row'`` or ``'column'``.
            Defaults to ``'element'``.
        split_bias (bool): Split biases too; else each module has a full one.
            Defaults to False.
        tie_indices (bool): One draw for both projections instead of two.
            Defaults to False.
        storage (str): ``'compact'`` or ``'replicated'``.
            Defaults to ``'compact'``.
        merge (str): ``'mean'``, ``'union'`` or ``'official_joint'``.
            Defaults to ``'mean'``.
        seed (int): Seed of the masks. Defaults to 0.
        fixed_mask (bool): The sparse single-adapter baseline: no modules,
            but one random mask per tensor with the density 1/N.
            Defaults to False.

    Raises:
        ConfigError: For an unknown option, or a text for a switch.
    """

    num_modules: int = 4
    split: str = 'up'
    granularity: str = 'element'
    split_bias: bool = False
    tie_indices: bool = False
    storage: str = 'compact'
    merge: str = 'mean'
    seed: int = 0
    fixed_mask: bool = False

    def __post_init__(self) -> None:
        set_switches(self)
        if not isinstance(self.num_modules, int) or self.num_modules < 1:
            raise ConfigError('num_modules is a positive integer, but got '
                              f'{self.num_modules!r}.')
        for key, known in (('split', SPLITS), ('granularity', GRANULARITIES),
                           ('storage', STORAGES)):
            if getattr(self, key) not in known:
                raise ConfigError(
                    f'{key} is one of {", ".join(map(repr, known))}, but got '
                    f'{getattr(self, key)!r}.')
        check_merge_mode(self.merge)

    def linear(self,
               in_features: int,
               out_features: int,
               role: str,
               name: str,
               bias: bool = True) -> nn.Module:
        """A projection: split, masked or plain.

        Args:
            in_features (int): Size of the input.
            out_features (int): Size of the output.
            role (str): ``'down'`` or ``'up'``.
            name (str): Name in the model, decides the mask.
            bias (bool): Whether it has a bias. Defaults to True.

        Returns:
            nn.Module: A layer with ``in_features`` and ``out_features``.
        """
        if self.num_modules == 1:
            return nn.Linear(in_features, out_features, bias)
        if self.fixed_mask:
            return MaskedLinear(in_features, out_features, bias,
                                self.num_modules, self.seed, name)
        if self.split not in (role, 'both'):
            return nn.Linear(in_features, out_features, bias)
        return SplitLinear(in_features, out_features, self.num_modules, bias,
                           self.split_bias, self.granularity, self.storage,
                           self.merge, self.seed, name)

    def norm(self, width: int, name: str) -> nn.Module:
        """The LayerNorm of an adapter, which is never split."""
        if self.fixed_mask and self.num_modules > 1:
            return MaskedLayerNorm(width, self.num_modules, self.seed, name)
        return nn.LayerNorm(width, eps=1e-6)


class _Masked:
    """Mixin: only the masked elements of the parameters are ever used.

    The others stay at their start, whatever the optimizer does, because the
    forward selects them from a buffer.
    """

    def _draw_masks(self, num_modules: int, seed: int, name: str) -> None:
        for kind, value in list(self.named_parameters(recurse=False)):
            scores = draw_scores(value.shape, seed, f'{name}.{kind}')
            self.register_buffer(f'{kind}_mask',
                                 sparse_mask(scores, num_modules))
            self.register_buffer(f'{kind}_init', value.detach().clone())

    def value_of(self, kind: str) -> Optional[Tensor]:
        """What the forward uses as ``'weight'`` or ``'bias'``."""
        value = getattr(self, kind)
        return None if value is None else torch.where(
            getattr(self, f'{kind}_mask'), value, getattr(
                self, f'{kind}_init'))

    def modules_weight(self, k: int = 0) -> Tensor:
        """The only module's weight."""
        return self.value_of('weight')

    def merged_weight(self, mode: Optional[str] = None) -> Tensor:
        """The weight in use; there is nothing to merge."""
        return self.value_of('weight')

    def merged_bias(self, mode: Optional[str] = None) -> Optional[Tensor]:
        """The bias in use; there is nothing to merge."""
        return self.value_of('bias')

    @torch.no_grad()
    def load_dense(self,
                   weight: Tensor,
                   bias: Optional[Tensor] = None) -> None:
        """Start from a dense layer."""
        for kind, given in (('weight', weight), ('bias', bias)):
            value = getattr(self, kind)
            if value is not None:
                value.copy_(torch.zeros(()) if given is None else given)
                getattr(self, f'{kind}_init').copy_(value)


class MaskedLinear(_Masked, nn.Linear):
    """A linear layer of which a fixed random part is trained.

    Args:
        in_features (int): Size of the input.
        out_features (int): Size of the output.
        bias (bool): Whether there is a bias.
        num_modules (int): N; 1/N of each tensor is trained.
        seed (int): Seed of the masks.
        name (str): Name of the layer in the model.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool,
                 num_modules: int, seed: int, name: str) -> None:
        super().__init__(in_features, out_features, bias)
        self._draw_masks(num_modules, seed, name)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (..., in)."""
        return F.linear(x, self.value_of('weight'), self.value_of('bias'))


class MaskedLayerNorm(_Masked, nn.LayerNorm):
    """A LayerNorm (eps 1e-6) of which a fixed random part is trained.

    Args:
        width (int): Width of the tokens.
        num_modules (int): N; 1/N of each tensor is trained.
        seed (int): Seed of the masks.
        name (str): Name of the layer in the model.
    """

    def __init__(self, width: int, num_modules: int, seed: int,
                 name: str) -> None:
        super().__init__(width, eps=1e-6)
        self._draw_masks(num_modules, seed, name)

    def reset_parameters(self) -> None:
        """Start from identity, the masked-out part as well."""
        super().reset_parameters()
        for kind in ('weight', 'bias'):
            if hasattr(self, f'{kind}_init'):
                getattr(self,
                        f'{kind}_init').copy_(getattr(self, kind).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., D)."""
        return F.layer_norm(x, self.normalized_shape, self.value_of('weight'),
                            self.value_of('bias'), self.eps)
