# Copyright (c) mmext contributors. All rights reserved.
"""Low-rank branches beside frozen linear layers (LoRA, and MoSL)."""
import math
from typing import Dict, List, Optional

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bottleneck import in_own_dtype, load_dense
from .slots import AdaptedModule, register_adapted
from .split_options import Draw, SplitOptions


class LowRankPart(nn.Module):
    r"""One low-rank update, :math:`s \cdot B(drop(A x))`.

    ``A`` starts from U(-1/sqrt(D), 1/sqrt(D)), ``B`` from 0; neither has a
    bias (arXiv:2312.02923). Note that s is not alpha / r.

    Args:
        in_features (int): D of the input.
        out_features (int): Width of the output.
        rank (int): r.
        options (SplitOptions): How A (``'down'``) and B (``'up'``) are split.
        name (str): Name in the model.
        scale (float): s. Defaults to 1.0.
        drop_rate (float): Dropout between A and B. Defaults to 0.0.
    """

    def __init__(self,
                 in_features: int,
                 out_features: int,
                 rank: int,
                 options: SplitOptions,
                 name: str,
                 scale: float = 1.,
                 drop_rate: float = 0.) -> None:
        super().__init__()
        self.tied = options.tie_indices
        self.scale = scale
        self.A = options.linear(in_features, rank, 'down', f'{name}.A', False)
        self.drop = nn.Dropout(drop_rate)
        self.B = options.linear(rank, out_features, 'up', f'{name}.B', False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again: random A, zero B."""
        weight = torch.empty(self.A.out_features, self.A.in_features)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        load_dense(self.A, weight)
        load_dense(self.B, torch.zeros(self.B.out_features,
                                       self.B.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ..., D) to the update of the layer's output."""
        return in_own_dtype(
            self, x, lambda z: self.B(self.drop(self.A(z))) * self.scale)

    def delta_weight(self) -> Tensor:
        """What the merged branch adds to the layer's weight, (out, in)."""
        up, down = (
            layer.weight if isinstance(layer, nn.Linear)
            and not hasattr(layer, 'merged_weight') else layer.merged_weight()
            for layer in (self.B, self.A))
        return up @ down * self.scale


def check_o_reads(o_reads: str) -> None:
    """Raise ConfigError unless ``o_reads`` names what a branch can read."""
    if o_reads not in ('context', 'input'):
        raise ConfigError("o_reads is 'context' or 'input', but got "
                          f'{o_reads!r}.')


def check_foldable(adapter: nn.Module) -> None:
    """Raise RuntimeError if a branch cannot be folded into a weight."""
    if not adapter.foldable:
        raise RuntimeError(
            "The branch 'o' reads the attention's input (o_reads='input'), "
            'not that of the output projection, so it cannot be folded into '
            "a weight. Train with o_reads='context', or keep the adapter as "
            'it is.')


class LoRA(nn.Module):
    """Low-rank branches of one linear layer, for some of its outputs.

    A fused ``qkv`` layer carries up to three parts, each of which updates
    its third of the output; an output projection carries the part ``o``.

    Args:
        layer (nn.Linear): The host's layer.
        letters (str): Its parts, out of ``'qkv'``, or ``'o'``.
        options (SplitOptions): How the parts are split.
        name (str): Name in the model.
        rank (int): r. Defaults to 16.
        scale (float): s. Defaults to 1.0.
        drop_rate (float): Dropout between the two projections.
            Defaults to 0.0.
        o_reads (str): What the part ``o`` reads: ``'context'``, the input
            of the output projection as in plain LoRA, or ``'input'``, the
            attention's input as the authors' code does; that one cannot be
            folded into the weight. Defaults to ``'context'``.

    Examples:
        >>> model = dict(
        ...     type='mmext.MoSAModel',
        ...     adapter=dict(type='LoRA', rank=16, targets='qv'))
    """

    def __init__(self,
                 layer: nn.Linear,
                 letters: str,
                 options: SplitOptions,
                 name: str,
                 rank: int = 16,
                 scale: float = 1.,
                 drop_rate: float = 0.,
                 o_reads: str = 'context') -> None:
        super().__init__()
        check_o_reads(o_reads)
        self.letters = letters
        self.o_reads = o_reads
        self.outputs = layer.out_features
        width = self.outputs if letters == 'o' else self.outputs // 3
        for letter in letters:
            part = LowRankPart(layer.in_features, width, rank, options,
                               f'{name}.{letter}', scale, drop_rate)
            self.add_module(letter, part)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the layer's output, (B, ..., out)."""
        if self.letters == 'o':
            return self.o(x)
        parts = [
            self._modules[letter](x) if letter in self._modules else None
            for letter in 'qkv'
        ]
        like = next(part for part in parts if part is not None)
        zero = torch.zeros_like(like)
        return torch.cat([zero if p is None else p for p in parts], -1)

    @property
    def foldable(self) -> bool:
        """bool: Whether the branch is a function of the layer's input."""
        return self.letters != 'o' or self.o_reads == 'context'

    def delta_weight(self) -> Tensor:
        """What the merged branches add to the layer's weight, (out, in).

        Raises:
            RuntimeError: With ``o_reads='input'``.
        """
        check_foldable(self)
        if self.letters == 'o':
            return self.o.delta_weight()
        parts = {
            letter: self._modules[letter].delta_weight()
            for letter in self.letters
        }
        zero = torch.zeros_like(next(iter(parts.values())))
        return torch.cat([parts.get(letter, zero) for letter in 'qkv'])

    def folded(self, layer: nn.Linear) -> Dict[str, Tensor]:
        """Weight of the layer with the merged branches in it."""
        delta = self.delta_weight()
        dtype = torch.promote_types(delta.dtype, layer.weight.dtype)
        return dict(weight=layer.weight.to(dtype) + delta.to(dtype))

    def draws(self) -> List[Draw]:
        """Two draws for each part: A, then B."""
        found = []
        for letter in self.letters:
            part = self._modules[letter]
            found += [Draw(part.A), Draw(part.B, part.tied)]
        return found


@register_adapted
class AdaptedLinear(AdaptedModule, nn.Linear):
    """A linear layer with something beside or behind it."""

    host_type = nn.Linear
    cooperative = True
    # What the branch reads instead of the layer's input, see ReadsInput.
    branch_input: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its adapter to (B, ..., in)."""
        out = super().forward(x)
        adapter = self.adapter
        if adapter is None:
            return out
        if not isinstance(adapter, LoRA):
            return adapter(out)
        if not adapter.foldable:
            x = self.branch_input
        return out + adapter(x)


class ReadsInput(AdaptedModule):
    """Mixin of attentions that show their input to the ``o`` branch."""

    cooperative = True
    projection = 'proj'

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """Run the attention; the branch reads ``x``."""
        proj = getattr(self, self.projection)
        proj.branch_input = x
        try:
            return super().forward(x, *args, **kwargs)
        finally:
            proj.branch_input = None
