# Copyright (c) mmext contributors. All rights reserved.
"""From modules to a standard adapter, from there to the host, and back."""
from copy import deepcopy
from dataclasses import fields
from typing import Any, Callable, Dict, List, Mapping, Tuple

import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .bottleneck import load_dense
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


def _special_layers(adapter: nn.Module) -> List[Tuple[str, nn.Module]]:
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
    special = dict(_special_layers(adapter))
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
    for name, layer in _special_layers(adapter):
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


def load_standard(model: Any, state: Mapping[str, Tensor]) -> None:
    """Start the active adapter from a trained standard one.

    Every module of a split layer becomes a copy of the dense layer, so the
    model computes what the standard adapter computes (with
    ``merge='official_joint'`` divided by N), and trains on from there.

    Args:
        model (MoSAModel): The model.
        state (Mapping[str, Tensor]): Tensors of an adapter with one module,
            ``<host module>.mosa.<...>`` as
            :func:`~mmext.models.adapters.checkpoint.read_adapter` returns
            them, or with the adapter's name behind ``mosa``, as in a state
            dict. Heads and other trained parts of the host, by the host's
            names, are taken over too; other keys are left out.

    Raises:
        ConfigError: If tensors are missing, unknown or have another shape;
            nothing is loaded then.
    """
    if model.merged:
        raise RuntimeError('The adapters are merged; call unmerge() before '
                           'a standard adapter is loaded into them.')
    work: List[Tuple[Callable, tuple]] = []
    problems: List[str] = []
    for path, adapter in model.adapter_modules().items():
        given = _of_one_adapter(state, path, model.active_adapter)
        wanted = standard_state(adapter)
        problems += [
            f'{path}: {key} is missing' for key in wanted if key not in given
        ]
        problems += [
            f'{path}: {key} is not part of a standard adapter here'
            for key in given if key not in wanted
        ]
        problems += [
            f'{path}: {key} is {tuple(given[key].shape)}, expected '
            f'{tuple(value.shape)}' for key, value in wanted.items()
            if key in given and given[key].shape != value.shape
        ]
        special = dict(_special_layers(adapter))
        for name, layer in special.items():
            work.append((load_dense, (layer, given.get(f'{name}.weight'),
                                      given.get(f'{name}.bias'))))
        live = adapter.state_dict(keep_vars=True)
        work += [(_copy, (live[key], given.get(key))) for key in wanted
                 if key.rpartition('.')[0] not in special]
    for key, value in _trained_host_tensors(model).items():
        if key in state and state[key].shape != value.shape:
            problems.append(
                f'{key} is {tuple(state[key].shape)}, expected '
                f'{tuple(value.shape)}; leave it out of the tensors to keep '
                "this model's")
        elif key in state:
            work.append((_copy, (value, state[key])))
    if problems or not work:
        raise ConfigError(
            'This is not a standard adapter (num_modules=1) that fits the '
            'model; nothing was loaded.\n  ' +
            '\n  '.join(problems[:12] or ['the model has no adapters']))
    for function, args in work:
        function(*args)


def _trained_host_tensors(model: Any) -> Dict[str, Tensor]:
    """Heads, and what the adapter's type trains of the host."""
    plan = model.plan_of(model.active_adapter)
    own = set(plan.trainable_names(model.module))
    return {
        key: value
        for key, value in model.state_dict(keep_vars=True).items()
        if '.mosa.' not in key and (key in own or model.is_head(key))
    }


@torch.no_grad()
def _copy(target: Tensor, value: Tensor) -> None:
    target.copy_(value)


def _of_one_adapter(state: Mapping[str, Tensor], path: str,
                    name: str) -> Dict[str, Tensor]:
    stem = f'{path}.mosa.'
    own = {k[len(stem):]: v for k, v in state.items() if k.startswith(stem)}
    if own and all(key.startswith(f'{name}.') for key in own):
        own = {key[len(name) + 1:]: value for key, value in own.items()}
    return own


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
