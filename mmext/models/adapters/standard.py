# Copyright (c) mmext contributors. All rights reserved.
"""From modules to a standard adapter, from there to the host, and back."""
from copy import deepcopy
from dataclasses import fields
from typing import Dict, List, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from .slots import slots
from .split_linear import SplitLinear
from .split_options import MaskedLayerNorm, MaskedLinear, SplitOptions

_SPLIT_KEYS = {field.name for field in fields(SplitOptions)}
_SPECIAL = (SplitLinear, MaskedLinear, MaskedLayerNorm)


def standard_config(cfg: dict) -> dict:
    """The config of the standard adapter that an adapter merges to.

    Args:
        cfg (dict): ``adapter``, ``targets`` and ``split``.

    Returns:
        dict: The same with ``num_modules=1``; targets keep what does not
        concern the split.
    """
    cfg = deepcopy(cfg)
    cfg['adapter'].pop('fixed_mask', None)
    cfg['split'].pop('fixed_mask', None)
    cfg['split']['num_modules'] = 1
    if isinstance(cfg['targets'], list):
        cfg['targets'] = [{
            k: v
            for k, v in target.items() if k not in _SPLIT_KEYS
        } if isinstance(target, dict) else target for target in cfg['targets']]
    return cfg


def special_layers(adapter: nn.Module) -> List[Tuple[str, nn.Module]]:
    """Split and masked layers of an adapter, by name."""
    return [(name, layer) for name, layer in adapter.named_modules()
            if isinstance(layer, _SPECIAL)]


def standard_state(adapter: nn.Module) -> Dict[str, Tensor]:
    """State dict of the standard adapter that an adapter merges to.

    The adapter itself is not changed, merged or not.

    Args:
        adapter (nn.Module): An adapter.

    Returns:
        dict[str, Tensor]: Names as those of an adapter with one module.
    """
    special = dict(special_layers(adapter))
    inside = tuple(f'{name}.' for name in special)
    state = {
        key: value
        for key, value in adapter.state_dict().items()
        if not key.startswith(inside)
    } if inside else dict(adapter.state_dict())
    for name, layer in special.items():
        state[f'{name}.weight'] = layer.merged_weight().detach()
        bias = layer.merged_bias()
        if bias is not None:
            state[f'{name}.bias'] = bias.detach()
    return state


def replace_split_layers(adapter: nn.Module) -> None:
    """Put ordinary layers in the place of split and masked ones."""
    for name, layer in special_layers(adapter):
        weight, bias = layer.merged_weight(), layer.merged_bias()
        if isinstance(layer, MaskedLayerNorm):
            new = nn.LayerNorm(layer.normalized_shape, eps=layer.eps)
        else:
            new = nn.Linear(layer.in_features, layer.out_features, bias
                            is not None)
        new.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            new.bias = nn.Parameter(bias.detach().clone())
        new.train(layer.training)
        parent, _, child = name.rpartition('.')
        setattr(adapter.get_submodule(parent), child, new)


@torch.no_grad()
def fold(host: nn.Module, name: str, safe: bool = True) -> None:
    """Add the adapters ``name`` to the weights of the layers they sit on.

    All new weights are computed and checked before the first is written.

    Args:
        host (nn.Module): The host.
        name (str): Name of the adapters.
        safe (bool): Whether to check that all values are finite.
            Defaults to True.

    Raises:
        RuntimeError: See
            :meth:`~mmext.models.adapters.MoSAModel.merge_and_unload`.
    """
    work: List[Tuple[nn.Module, str, Tensor]] = []
    for path, slot in slots(host):
        if name not in slot:
            continue
        layer, adapter = host.get_submodule(path), slot[name]
        if not hasattr(adapter, 'folded'):
            raise RuntimeError(
                f'{path} carries a {type(adapter).__name__}, whose '
                'non-linearity cannot be folded into weights. Use collapse() '
                'and keep the standard adapter, or train LoRA (MoSL).')
        for key, value in adapter.folded(layer).items():
            owner, _, key = key.rpartition('.')
            value = value.to(next(layer.parameters()).dtype)
            if safe and not torch.isfinite(value).all():
                raise RuntimeError(
                    f'Folding would give values that are not finite in '
                    f'{path}; nothing was changed. Go back to an earlier '
                    'checkpoint.')
            work.append((layer.get_submodule(owner), key, value))
    for layer, key, value in work:
        if getattr(layer, key) is None:
            setattr(layer, key, nn.Parameter(value))
        else:
            getattr(layer, key).copy_(value)
