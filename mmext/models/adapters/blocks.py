# Copyright (c) mmext contributors. All rights reserved.
"""What MoSA asks of a host's transformer blocks and of a whole host."""
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

import torch.nn as nn
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .slots import AdaptedModule


class AdaptedBlock(AdaptedModule):
    """Base of adapted transformer blocks; the rim has one for each host.

    A binding declares what its host offers and writes the block's formula
    once, with hooks for the adapter.
    """

    # Which bottleneck styles the block can carry.
    styles: Tuple[str, ...] = ('AdaptFormer', 'Pfeiffer', 'Houlsby')
    # Whether a bottleneck adapter has a LayerNorm of its own here.
    adapter_norm = True
    # Paths of the attention (``module``), its fused ``qkv`` and its output
    # projection ``o``; or of torch's attention as a ``whole``.
    attention: Dict[str, str] = {}
    # Layers whose weights the block reads and whose outputs it never asks for.
    reads_weights_of: Tuple[str, ...] = ()

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        raise NotImplementedError

    def checkpointed(self, function: Callable[[Tensor], Tensor],
                     x: Tensor) -> Tensor:
        """Run ``function``, recomputing it in backward if the host asks."""
        if getattr(self, 'with_cp', False) and x.requires_grad:
            return checkpoint(function, x, use_reentrant=False)
        return function(x)


class AdaptedSwinBlock(AdaptedBlock):
    r"""Formula of an adapted Swin block; both hosts' blocks have these parts.

    The adapter lives in the feed-forward part and shares its stochastic
    depth (arXiv:2312.02923): with :math:`u = LN_2(h)`,

    .. math:: y = h + DropPath(F(u) + s \cdot A(u))
    """

    styles = ('AdaptFormer', )
    adapter_norm = False
    attention = dict(
        module='attn.w_msa', qkv='attn.w_msa.qkv', o='attn.w_msa.proj')

    @staticmethod
    def width(block: nn.Module) -> int:
        """Width of the block's tokens."""
        return block.norm1.normalized_shape[-1]

    def forward(self, x: Tensor, hw_shape: tuple) -> Tensor:
        """Map tokens (B, H * W, D) to tokens."""
        adapter = self.adapter
        if adapter is None:
            return super().forward(x, hw_shape)

        def inner(x: Tensor) -> Tensor:
            h = self.attn(self.norm1(x), hw_shape) + x
            return adapter.run_inside(self.ffn, self.norm2(h), h)

        return self.checkpointed(inner, x)


class Host:
    """How a whole model is trained with two passes; the rim has bindings.

    Two passes need the logits of both and the host's own loss on the first,
    so the loss is taken apart.
    """

    @staticmethod
    def check(model: nn.Module) -> None:
        """Raise a ``ConfigError`` if the model has no loss to train with."""

    @staticmethod
    def features(model: nn.Module, inputs: Tensor) -> Any:
        """Features of a batch, after the neck."""
        return model.extract_feat(inputs)

    @staticmethod
    def logits(model: nn.Module, feats: Any) -> Tensor:
        """Logits of the main head, classes on axis 1."""
        raise NotImplementedError

    @staticmethod
    def independent(model: nn.Module) -> bool:
        """Whether each logit is a yes or no of its own (sigmoid), instead
        of one of several exclusive classes (softmax)."""
        return False

    @staticmethod
    def loss(model: nn.Module, feats: Any, logits: Tensor,
             data_samples: List[Any]) -> Dict[str, Tensor]:
        """The host's losses, given features and logits."""
        raise NotImplementedError


_HOSTS: List[Tuple[Type[nn.Module], Type[Host]]] = []


def register_host(model_type: Type[nn.Module]) -> Callable:
    """Class decorator: the binding of ``model_type`` and its subclasses."""

    def register(cls: Type[Host]) -> Type[Host]:
        _HOSTS.append((model_type, cls))
        return cls

    return register


def find_host(model: nn.Module) -> Optional[Type[Host]]:
    """The binding of a model, None if there is none."""
    return next(
        (cls for kind, cls in reversed(_HOSTS) if isinstance(model, kind)),
        None)
