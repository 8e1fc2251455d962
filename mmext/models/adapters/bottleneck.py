# Copyright (c) mmext contributors. All rights reserved.
"""Bottleneck adapters: AdaptFormer, Pfeiffer and Houlsby."""
import math
from typing import Callable, List, Optional

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .split_options import Draw, SplitOptions

Attention = Callable[[Tensor], Tensor]
FFN = Callable[[Tensor, Tensor], Tensor]
GELU, RELU, SILU = (dict(type=name) for name in ('GELU', 'ReLU', 'SiLU'))


def build_activation(cfg: dict) -> nn.Module:
    """Build an activation of ``torch.nn`` from ``dict(type='GELU')``.

    Raises:
        ConfigError: If ``torch.nn`` has no such class.
    """
    options = dict(cfg)
    name = options.pop('type', None)
    found = getattr(nn, str(name), None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError('act_cfg.type is the name of an activation of '
                          f"torch.nn, such as 'GELU', but got {name!r}.")
    return found(**options)


def in_own_dtype(module: nn.Module, x: Tensor,
                 function: Callable[[Tensor], Tensor]) -> Tensor:
    """Run ``function`` in the dtype of the adapter, not of the host.

    Adapters stay in float32 beside a half-precision backbone; under autocast
    the dtype is autocast's business.
    """
    dtype = next(module.parameters()).dtype
    if x.dtype == dtype or torch.is_autocast_enabled(x.device.type):
        return function(x)
    return function(x.to(dtype)).to(x.dtype)


class Bottleneck(nn.Module):
    r"""A small two-layer network, the body of every bottleneck adapter.

    .. math:: s \cdot (W_{up} \, drop(\phi(W_{dn} LN(z) + b_{dn})) + b_{up})

    ``W_dn`` starts from U(-1/sqrt(D), 1/sqrt(D)), everything else from 0 (the
    norm from identity), so a new adapter adds nothing (arXiv:2312.02923).

    Args:
        width (int): D, width of the tokens.
        bottleneck (int): r.
        act_cfg (dict): Activation, the name of a class of ``torch.nn``.
        options (SplitOptions): How the two projections are split.
        name (str): Name in the model.
        scale (float, optional): s; None makes it a learnable scalar that
            starts from 1. Defaults to 1.0.
        drop_rate (float): Dropout after the activation. Defaults to 0.0.
        norm (bool): Whether it has a LayerNorm of its own (eps 1e-6).
            Defaults to False.
    """

    def __init__(self,
                 width: int,
                 bottleneck: int,
                 act_cfg: dict,
                 options: SplitOptions,
                 name: str,
                 scale: Optional[float] = 1.,
                 drop_rate: float = 0.,
                 norm: bool = False) -> None:
        super().__init__()
        self.tied = options.tie_indices
        self.norm = options.norm(width, f'{name}.norm') if norm else None
        self.down = options.linear(width, bottleneck, 'down', f'{name}.down')
        self.act = build_activation(act_cfg)
        self.drop = nn.Dropout(drop_rate)
        self.up = options.linear(bottleneck, width, 'up', f'{name}.up')
        if scale is None:
            self.scale = nn.Parameter(torch.ones(()))
        else:
            self.scale = scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start again: random down, zero up."""
        weight = torch.empty(self.down.out_features, self.down.in_features)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        load_dense(self.down, weight)
        load_dense(self.up,
                   torch.zeros(self.up.out_features, self.up.in_features))
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, ..., D) to what is added, of the same shape."""
        return in_own_dtype(self, x, self._forward)

    def _forward(self, x: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        return self.up(self.drop(self.act(self.down(x)))) * self.scale

    def draws(self) -> List[Draw]:
        """Its two draws, down then up."""
        return [Draw(self.down), Draw(self.up, self.tied)]


def load_dense(layer: nn.Module,
               weight: Tensor,
               bias: Optional[Tensor] = None) -> None:
    """Set a plain, masked or split linear layer from dense tensors."""
    if hasattr(layer, 'load_dense'):
        layer.load_dense(weight, bias)
        return
    with torch.no_grad():
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.copy_(0. if bias is None else bias)


class AdaptFormer(Bottleneck):
    r"""Adapter parallel to the feed-forward part (arXiv:2312.02923).

    .. math:: y = h + F(LN_2 h) + s \cdot A(LN_a h)

    On Swin it reads the tokens that the feed-forward part reads, has no
    LayerNorm of its own and shares the part's stochastic depth.

    Args:
        width (int): Width of the tokens.
        options (SplitOptions): How it is split.
        name (str): Name in the model.
        norm (bool): Whether it has its own LayerNorm. Defaults to True.
        bottleneck (int): r. Defaults to 64.
        scale (float, optional): s; None for a learnable scalar.
            Defaults to 0.1.
        drop_rate (float): Dropout after the activation. Defaults to 0.1.
        act_cfg (dict): Activation. Defaults to ``dict(type='GELU')``.

    Examples:
        >>> model = dict(
        ...     type='mmext.MoSAModel',
        ...     adapter=dict(type='AdaptFormer', bottleneck=64, scale=0.1))
    """

    def __init__(self,
                 width: int,
                 options: SplitOptions,
                 name: str,
                 norm: bool = True,
                 bottleneck: int = 64,
                 scale: Optional[float] = 0.1,
                 drop_rate: float = 0.1,
                 act_cfg: dict = GELU) -> None:
        super().__init__(width, bottleneck, act_cfg, options, name, scale,
                         drop_rate, norm)

    def run(self, x: Tensor, attention: Attention, ffn: FFN) -> Tensor:
        """Compute a block with the adapter.

        Args:
            x (Tensor): Block input, shape (B, T, D).
            attention (Callable): ``x -> x + Attn(LN1(x))``.
            ffn (Callable): ``(h, identity) -> identity + F(LN2(h))``.

        Returns:
            Tensor: Block output.
        """
        h = attention(x)
        return ffn(h, h + self(h))

    def run_inside(self, ffn: nn.Module, u: Tensor,
                   identity: Tensor) -> Tensor:
        r"""Compute mmcv's feed-forward part with the adapter inside.

        Args:
            ffn (nn.Module): mmcv's ``FFN``, which adds the residual itself.
            u (Tensor): Normalised tokens, which both read.
            identity (Tensor): The residual.

        Returns:
            Tensor: :math:`h + DropPath(F(u) + s \cdot A(u))`.
        """
        branch = ffn.gamma2(ffn.layers(u)) + self(u)
        return identity + ffn.dropout_layer(branch)


class Pfeiffer(Bottleneck):
    r"""Adapter after the feed-forward part (arXiv:2312.02923).

    .. math:: f = F(LN_2 h); \quad y = h + f + A(LN_a f)

    Args:
        width (int): Width of the tokens.
        options (SplitOptions): How it is split.
        name (str): Name in the model.
        norm (bool): Whether it has its own LayerNorm. Defaults to True.
        bottleneck (int): r. Defaults to 64.
        drop_rate (float): Dropout after the activation. Defaults to 0.0.
        act_cfg (dict): Activation. Defaults to ``dict(type='ReLU')``.
    """

    def __init__(self,
                 width: int,
                 options: SplitOptions,
                 name: str,
                 norm: bool = True,
                 bottleneck: int = 64,
                 drop_rate: float = 0.,
                 act_cfg: dict = RELU) -> None:
        super().__init__(width, bottleneck, act_cfg, options, name, 1.,
                         drop_rate, norm)

    def run(self, x: Tensor, attention: Attention, ffn: FFN) -> Tensor:
        """Compute a block, see :meth:`AdaptFormer.run`."""
        h = attention(x)
        f = ffn(h, h.new_zeros(1))
        return h + f + self(f)


class Houlsby(nn.Module):
    r"""Two adapters, after both residual sums (arXiv:2312.02923).

    .. math::
        u = x + Attn(LN_1 x); \quad u' = u + A_{attn}(u); \quad
        v = u' + F(LN_2 u'); \quad y = v + A_{ffn}(v)

    Args:
        width (int): Width of the tokens.
        options (SplitOptions): How it is split.
        name (str): Name in the model.
        norm (bool): Not used: this style has no norm. Defaults to True.
        bottleneck (int): r. Defaults to 64.
        drop_rate (float): Dropout after the activation. Defaults to 0.0.
        act_cfg (dict): Activation. Defaults to ``dict(type='SiLU')``.
    """

    def __init__(self,
                 width: int,
                 options: SplitOptions,
                 name: str,
                 norm: bool = True,
                 bottleneck: int = 64,
                 drop_rate: float = 0.,
                 act_cfg: dict = SILU) -> None:
        super().__init__()
        for part in ('attn', 'ffn'):
            body = Bottleneck(width, bottleneck, act_cfg, options,
                              f'{name}.{part}', 1., drop_rate)
            self.add_module(part, body)

    def run(self, x: Tensor, attention: Attention, ffn: FFN) -> Tensor:
        """Compute a block, see :meth:`AdaptFormer.run`."""
        h = attention(x)
        h = h + self.attn(h)
        h = ffn(h, h)
        return h + self.ffn(h)

    def draws(self) -> List[Draw]:
        """Its four draws: attention down and up, feed-forward down and up."""
        return self.attn.draws() + self.ffn.draws()
