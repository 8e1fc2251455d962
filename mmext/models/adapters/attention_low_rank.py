# Copyright (c) mmext contributors. All rights reserved.
"""Low-rank branches in torch's attention, whose projections are no layers."""
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .low_rank import LowRankPart, check_foldable, check_o_reads
from .slots import AdaptedModule, register_adapted
from .split_options import Draw, SplitOptions


class AttentionLoRA(nn.Module):
    r"""The parts of LoRA for an ``nn.MultiheadAttention``.

    It holds queries, keys and values in one tensor and reads the weights of
    its output projection, so the branches are added by
    :class:`AdaptedAttention`:

    .. math::
        q = W_q x + s B_q A_q x, \quad
        o = W_o c + s B_o A_o c

    and likewise k and v of what they are computed from, which SegFormer
    reduces first; c is the attention's context.

    Args:
        attention (nn.MultiheadAttention): The host's attention.
        letters (str): Its parts, out of ``'qkvo'``.
        options (SplitOptions): How the parts are split.
        name (str): Name in the model.
        rank (int): r. Defaults to 16.
        scale (float): s. Defaults to 1.0.
        drop_rate (float): Dropout between the two projections.
            Defaults to 0.0.
        o_reads (str): ``'context'``, or ``'input'`` for the queries' input,
            see :class:`~mmext.models.adapters.LoRA`.
            Defaults to ``'context'``.

    Raises:
        ConfigError: If keys or values have a width of their own.
    """

    def __init__(self,
                 attention: nn.MultiheadAttention,
                 letters: str,
                 options: SplitOptions,
                 name: str,
                 rank: int = 16,
                 scale: float = 1.,
                 drop_rate: float = 0.,
                 o_reads: str = 'context') -> None:
        super().__init__()
        check_o_reads(o_reads)
        if attention.in_proj_weight is None or attention.bias_k is not None \
                or attention.add_zero_attn:
            raise ConfigError(
                f"{name}: type='LoRA' expects an attention whose queries, "
                'keys and values have the same width and no tokens of their '
                'own (kdim, vdim, add_bias_kv, add_zero_attn). Use '
                'AdaptFormer, Pfeiffer or Houlsby on it.')
        self.letters = letters
        self.o_reads = o_reads
        width = attention.embed_dim
        for letter in letters:
            self.add_module(
                letter,
                LowRankPart(width, width, rank, options, f'{name}.{letter}',
                            scale, drop_rate))

    def branch(self, letter: str, x: Tensor) -> Optional[Tensor]:
        """What part ``letter`` adds for tokens (B, T, D); None without it."""
        part = self._modules.get(letter)
        return None if part is None else part(x)

    @property
    def foldable(self) -> bool:
        """bool: Whether the branches are functions of their layers' input."""
        return 'o' not in self.letters or self.o_reads == 'context'

    def folded(self, attention: nn.MultiheadAttention) -> Dict[str, Tensor]:
        """Weights of the attention with the merged branches in them.

        Raises:
            RuntimeError: With a part ``o`` and ``o_reads='input'``.
        """
        check_foldable(self)
        rows = attention.in_proj_weight.chunk(3)
        parts = [
            w if letter not in self._modules else w +
            self._modules[letter].delta_weight()
            for letter, w in zip('qkv', rows)
        ]
        found = dict(in_proj_weight=torch.cat(parts))
        if 'o' in self._modules:
            found['out_proj.weight'] = attention.out_proj.weight + \
                self.o.delta_weight()
        return found

    def draws(self) -> List[Draw]:
        """Two draws for each part: A, then B."""
        found = []
        for letter in self.letters:
            part = self._modules[letter]
            found += [Draw(part.A), Draw(part.B, part.tied)]
        return found


@register_adapted
class AdaptedAttention(AdaptedModule, nn.MultiheadAttention):
    """torch's attention with low-rank branches beside its projections."""

    host_type = nn.MultiheadAttention

    def forward(self,
                query: Tensor,
                key: Tensor,
                value: Tensor,
                key_padding_mask: Optional[Tensor] = None,
                need_weights: bool = True,
                attn_mask: Optional[Tensor] = None,
                average_attn_weights: bool = True,
                is_causal: bool = False) -> Tuple[Tensor, Optional[Tensor]]:
        """See ``nn.MultiheadAttention.forward``; batches only."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(
                query,
                key,
                value,
                key_padding_mask=key_padding_mask,
                need_weights=need_weights,
                attn_mask=attn_mask,
                average_attn_weights=average_attn_weights,
                is_causal=is_causal)
        if query.dim() != 3:
            raise ValueError('LoRA in an attention expects batches of tokens '
                             f'(three axes), but got {tuple(query.shape)}.')
        tokens = (query, key, value)
        if not self.batch_first:
            # Modules meet parts of the batch, so that comes first.
            tokens = tuple(x.transpose(0, 1) for x in tokens)
        q, k, v = self._projected(adapter, tokens)
        mask = _merged_mask(attn_mask, key_padding_mask, q)
        context, weights = self._attend(q, k, v, mask, need_weights)
        out = F.linear(context, self.out_proj.weight, self.out_proj.bias)
        read = context if adapter.o_reads == 'context' else tokens[0]
        branch = adapter.branch('o', read)
        out = out if branch is None else out + branch
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, adapter: AttentionLoRA,
                   tokens: Tuple[Tensor, ...]) -> List[Tensor]:
        """Queries, keys and values, each (B, heads, T, D / heads)."""
        biases = (None, ) * 3 if self.in_proj_bias is None else \
            self.in_proj_bias.chunk(3)
        found = []
        for letter, x, weight, bias in zip('qkv', tokens,
                                           self.in_proj_weight.chunk(3),
                                           biases):
            out = F.linear(x, weight, bias)
            branch = adapter.branch(letter, x)
            out = out if branch is None else out + branch
            found.append(
                out.unflatten(-1, (self.num_heads, -1)).transpose(1, 2))
        return found

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor],
                need_weights: bool) -> Tuple[Tensor, Optional[Tensor]]:
        """Context (B, T, D) and, if needed, weights (B, heads, T, S)."""
        rate = self.dropout if self.training else 0.
        if not need_weights:
            context = F.scaled_dot_product_attention(q, k, v, mask, rate)
            return context.transpose(1, 2).flatten(2), None
        scores = q * q.size(-1)**-0.5 @ k.transpose(-2, -1)
        scores = scores if mask is None else scores + mask
        weights = F.dropout(scores.softmax(-1), rate)
        return (weights @ v).transpose(1, 2).flatten(2), weights


def _merged_mask(attn_mask: Optional[Tensor],
                 key_padding_mask: Optional[Tensor],
                 q: Tensor) -> Optional[Tensor]:
    """Both masks as one that is added to scores (B, heads, T, S)."""
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask.unflatten(0, q.shape[:2])
    if key_padding_mask is not None:
        key_padding_mask = key_padding_mask[:, None, None]
    total = None
    for mask in (attn_mask, key_padding_mask):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = q.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
        total = mask if total is None else total + mask
    return total
