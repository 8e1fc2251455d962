# Copyright (c) mmext contributors. All rights reserved.
"""An optimizer's state by the names of the parameters."""
from typing import Any, Dict, Mapping, Tuple

import torch
from torch import Tensor

from mmext.utils.user_error import ConfigError

OPTIMIZER = 'mosa_optimizer.'


def _optimizer_of(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer itself, also out of mmengine's wrapper."""
    return getattr(optimizer, 'optimizer', optimizer)


def optimizer_tensors(live: Mapping[str, Tensor],
                      optimizer: Any) -> Tuple[Dict[str, Tensor], dict]:
    """Moments by the names of an adapter's file, and what fits into JSON.

    Args:
        live (Mapping[str, Tensor]): The adapter's own tensors, see
            :meth:`AdapterTensors.live`. Those of others are left out.
        optimizer (Optimizer | OptimWrapper): The optimizer of the model.

    Returns:
        tuple[dict, dict]: Tensors ``mosa_optimizer.<key>/<parameter>``, and
        ``numbers`` and ``groups`` (options of the parameter groups).
    """
    optimizer = _optimizer_of(optimizer)
    names = {id(p): name for name, p in live.items()}
    tensors: Dict[str, Tensor] = {}
    numbers: Dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        name = names.get(id(parameter))
        for key, value in state.items() if name else ():
            if isinstance(value, Tensor):
                tensors[f'{OPTIMIZER}{key}/{name}'] = value
            else:
                numbers[f'{key}/{name}'] = value
    groups = [{
        key: value
        for key, value in group.items()
        if isinstance(value, (int, float, str, bool, list,
                              tuple)) and key != 'params'
    } for group in optimizer.param_groups]
    return tensors, dict(numbers=numbers, groups=groups)


def load_optimizer_state(live: Mapping[str, Tensor], optimizer: Any,
                         tensors: Mapping[str, Tensor], config: dict) -> None:
    """Restore what :func:`optimizer_tensors` returned.

    Args:
        live (Mapping[str, Tensor]): The adapter's own tensors.
        optimizer (Optimizer | OptimWrapper): A new optimizer of the same
            kind with the same groups.
        tensors (Mapping[str, Tensor]): The moments.
        config (dict): ``numbers`` and ``groups``.

    Raises:
        ConfigError: If the groups differ or a parameter is unknown; the
            optimizer is then as it was.
    """
    optimizer = _optimizer_of(optimizer)
    check_optimizer(live, optimizer, tensors, config)
    values: Dict[str, Any] = {
        key[len(OPTIMIZER):]: value
        for key, value in tensors.items()
    }
    values.update(config['numbers'])
    by_name: Dict[str, dict] = {}
    for key, value in values.items():
        kind, name = key.split('/', 1)
        by_name.setdefault(name, {})[kind] = value
    order = {
        id(p): i
        for i, p in enumerate(
            p for group in optimizer.param_groups for p in group['params'])
    }
    state = optimizer.state_dict()
    state['state'] = {
        order[id(live[name])]: entry
        for name, entry in by_name.items()
    }
    for group, saved in zip(state['param_groups'], config['groups']):
        group.update({
            key:
            tuple(value) if isinstance(group.get(key), tuple) else value
            for key, value in saved.items()
        })
    optimizer.load_state_dict(state)


def check_optimizer(live: Mapping[str, Tensor], optimizer: Any,
                    tensors: Mapping[str, Tensor], config: dict) -> None:
    """Raise ConfigError unless the state fits the optimizer."""
    optimizer = _optimizer_of(optimizer)
    inside = {
        id(p)
        for group in optimizer.param_groups
        for p in group['params']
    }
    names = {key.split('/', 1)[-1] for key in (*tensors, *config['numbers'])}
    unknown = sorted(
        name for name in names
        if name not in live or id(live[name]) not in inside)
    if unknown or len(optimizer.param_groups) != len(config['groups']):
        raise ConfigError(
            'The optimizer state is of another optimizer: '
            f'{len(config["groups"])} groups in the file, '
            f'{len(optimizer.param_groups)} here; parameters that are not '
            f'here: {unknown[:3] or "none"}. Build the optimizer of the '
            'config that trained the adapter, for the active adapter.')
