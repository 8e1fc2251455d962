# Copyright (c) mmext contributors. All rights reserved.
"""Start modules from a trained standard adapter."""
from typing import Any, Callable, Dict, List, Mapping, Tuple

import torch
from torch import Tensor

from mmext.utils.user_error import ConfigError
from .adapter_state import AdapterTensors
from .bottleneck import load_dense
from .standard import special_layers, standard_state


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
        special = dict(special_layers(adapter))
        for name, layer in special.items():
            work.append((load_dense, (layer, given.get(f'{name}.weight'),
                                      given.get(f'{name}.bias'))))
        live = adapter.state_dict(keep_vars=True)
        work += [(_copy, (live[key], given.get(key))) for key in wanted
                 if key.rpartition('.')[0] not in special]
    host = AdapterTensors(model, model.active_adapter).host_tensors()
    for key, value in host.items():
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
