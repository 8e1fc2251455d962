# Copyright (c) mmext contributors. All rights reserved.
"""Checks of adapter tensors before any of them is loaded."""
from typing import Any, List

import torch
import torch.nn as nn

from mmext.utils.user_error import ConfigError
from .lifecycle import TASKS
from .slots import SLOT, slots
from .split_linear import SplitLinear


def check_adapter_state(model: nn.Module, state_dict: dict, prefix: str, *args:
                        Any) -> None:
    """Refuse adapter tensors that do not fit the model.

    Runs before anything is loaded. Runners load without ``strict`` and
    would otherwise take half of a checkpoint with other masks or another
    number of modules. A checkpoint without adapters is welcome.

    Args:
        model (nn.Module): The :class:`MoSAModel`.
        state_dict (dict): What is about to be loaded.
        prefix (str): Prefix of the model's keys in it.

    Raises:
        ConfigError: With the list of what does not fit.
    """
    own = model.state_dict(prefix=prefix, keep_vars=True)
    inside = tuple(f'{prefix}{path}.{SLOT}.' for path, _ in slots(model))
    given = {
        k: v
        for k, v in state_dict.items()
        if k.startswith(prefix) and f'.{SLOT}.' in f'.{k[len(prefix):]}'
    }
    if not given:
        return
    problems: List[str] = []
    for key, value in given.items():
        if key.rsplit('.', 1)[-1] in ('init', 'bias_init'):
            continue
        if key not in own:
            problems.append(f'{key}: not in the model')
        elif tuple(own[key].shape) != tuple(value.shape):
            problems.append(f'{key}: model {tuple(own[key].shape)}, file '
                            f'{tuple(value.shape)}')
        elif value.is_floating_point() and not torch.isfinite(value).all():
            problems.append(f'{key}: has values that are not finite')
    problems += [
        f'{key}: missing' for key in own
        if key.startswith(inside) and key not in given
        and key.rsplit('.', 1)[-1] not in ('init', 'bias_init')
    ]
    problems += _foreign_owners(model, given, prefix)
    problems += _other_tasks(own, state_dict, prefix)
    if problems:
        shown = problems[:12]
        if len(problems) > 12:
            shown.append(f'... and {len(problems) - 12} more')
        raise ConfigError(
            'The adapters to be loaded do not fit this model; nothing was '
            'loaded.\n  ' + '\n  '.join(shown) + '\nUse the options of the '
            'model that wrote them (adapter, num_modules, split, split_bias, '
            'granularity, storage, targets), and for merged adapters call '
            'merge() of the model before loading.')


def _other_tasks(own: dict, state_dict: dict, prefix: str) -> List[str]:
    """Heads of adapters that are not in use, here and in the file."""

    def tasks(state: dict) -> set:
        stem = f'{prefix}{TASKS}.'
        return {
            key[len(stem):].split('.')[0]
            for key in state if key.startswith(stem)
        }

    mine, given = tasks(own), tasks(state_dict)
    return [] if mine == given else [
        'the file was written with other adapters, or while another one was '
        f'in use: not in use are {sorted(given)} in the file and '
        f'{sorted(mine)} in the model'
    ]


def _foreign_owners(model: nn.Module, given: dict, prefix: str) -> List[str]:
    """Owner tables that name a module which the model does not have."""
    problems = []
    for name, layer in model.named_modules():
        if not isinstance(layer, SplitLinear) or layer.merged:
            continue
        for kind in ('owner', 'bias_owner'):
            owner = given.get(f'{prefix}{name}.{kind}')
            if owner is not None and owner.numel() and \
                    int(owner.max()) + 1 != layer.num_modules:
                problems.append(f'{prefix}{name}.{kind}: model has '
                                f'{layer.num_modules} modules, file has '
                                f'{int(owner.max()) + 1}')
    return problems
