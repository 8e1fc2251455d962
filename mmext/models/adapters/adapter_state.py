# Copyright (c) mmext contributors. All rights reserved.
"""Which tensors of a model belong to one adapter, and which to none."""
import hashlib
from typing import Any, Dict, Iterable, List, Mapping, Type

import torch
from torch import Tensor

from mmext.utils.io import tensors_digest
from .lifecycle import TASKS
from .slots import SLOT, slots
from .standard import standard_state

_OPTIONAL = ('init', 'bias_init')


class AdapterTensors:
    """The tensors of one adapter of a model, under the names of its file.

    These are ``<host module>.mosa.<...>`` without the adapter's name, and
    for heads and other trained parts of the host the host's names.

    Args:
        model (MoSAModel): The model.
        name (str): Name of the adapter.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self.plan = model.plan_of(name)
        self.adapters = model.adapter_modules(name)
        self._aside = name != model.active_adapter and \
            TASKS in model._modules and name in model._modules[TASKS]
        self._tasks = f'{TASKS}.{name}.'

    @property
    def merged(self) -> bool:
        """bool: Whether some of its layers are merged."""
        return any(
            getattr(layer, 'merged', False)
            for adapter in self.adapters.values()
            for layer in adapter.modules())

    def host_tensors(self) -> Dict[str, Tensor]:
        """Live heads and trained parts of the host."""
        found = self.model.state_dict(keep_vars=True)
        own = set(self.plan.trainable_names(self.model.module))
        inside = tuple(f'{path}.{SLOT}.' for path, _ in slots(self.model))
        heads = {}
        for key, value in found.items():
            if self._aside and key.startswith(self._tasks):
                heads[key[len(self._tasks):]] = value
            elif not key.startswith(
                (*inside, f'{TASKS}.')) and (key in own or self.plan.trains_all
                                             or not self._aside
                                             and self.model.is_head(key)):
                heads[key] = value
        return heads

    @property
    def host_keys(self) -> List[str]:
        """list[str]: Names of the heads' and other host tensors."""
        return sorted(self.host_tensors())

    def live(self) -> Dict[str, Tensor]:
        """All tensors as the model holds them, modules included."""
        found = {
            f'{path}.{SLOT}.{key}': value
            for path, adapter in self.adapters.items()
            for key, value in adapter.state_dict(keep_vars=True).items()
        }
        return {**found, **self.host_tensors()}

    def standard(self) -> Dict[str, Tensor]:
        """All tensors with modules merged, as copies where they differ."""
        found = {
            f'{path}.{SLOT}.{key}': value
            for path, adapter in self.adapters.items()
            for key, value in standard_state(adapter).items()
        }
        return {**found, **self.host_tensors()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors in; :func:`compare` has checked them."""
        for path, adapter in self.adapters.items():
            stem = f'{path}.{SLOT}.'
            adapter.load_state_dict({
                key[len(stem):]: value
                for key, value in state.items() if key.startswith(stem)
            })
        for key, target in self.host_tensors().items():
            target.copy_(state[key])


def compare(own: Mapping[str, Tensor], given: Mapping[str,
                                                      Tensor]) -> List[str]:
    """What keeps ``given`` from being loaded into ``own``, in words."""
    problems = []
    for key in sorted(set(own) | set(given)):
        if key.rsplit('.', 1)[-1] in _OPTIONAL:
            # What a module holds outside its mask; None stands for zeros.
            continue
        if key not in given:
            problems.append(f'{key}: missing in the file')
        elif key not in own:
            problems.append(f'{key}: not in the model')
        elif own[key].shape != given[key].shape:
            problems.append(f'{key}: file {tuple(given[key].shape)}, model '
                            f'{tuple(own[key].shape)}')
    if len(problems) > 12:
        problems[12:] = [f'... and {len(problems) - 12} more']
    return problems


def fingerprint(model: Any, host_keys: Iterable[str]) -> dict:
    """What identifies the frozen weights below an adapter.

    Args:
        model (MoSAModel): The model.
        host_keys (Iterable[str]): Parameters that belong to the adapter.

    Returns:
        dict: ``type`` of the backbone, number of ``tensors`` and
        ``parameters``, and SHA-256 digests of ``layout`` (names and shapes)
        and ``values``.
    """
    inside = tuple(f'{path}.{SLOT}.' for path, _ in slots(model))
    skipped = set(host_keys)
    frozen = {
        name: value
        for name, value in model.named_parameters()
        if not (name in skipped or name.startswith((*inside, f'{TASKS}.'))
                or model.is_head(name))
    }
    layout = ''.join(f'{name}{tuple(value.shape)};'
                     for name, value in sorted(frozen.items()))
    backbone = getattr(model.module, 'backbone', model.module)
    return dict(
        type=getattr(type(backbone), '__name__', ''),
        tensors=len(frozen),
        parameters=sum(value.numel() for value in frozen.values()),
        layout=hashlib.sha256(layout.encode()).hexdigest(),
        values=tensors_digest(frozen))


def check_backbone(model: Any,
                   cfg: dict,
                   error: Type[Exception],
                   values: bool = True) -> None:
    """Compare the frozen weights with those an adapter was trained on.

    Args:
        model (MoSAModel): The model.
        cfg (dict): The config of the adapter file.
        error (type): Class of the error.
        values (bool): Compare the values too. Defaults to True.
    """
    mine, given = fingerprint(model, cfg['host_keys']), cfg['backbone']
    if mine['layout'] != given['layout']:
        raise error(
            'The adapter was trained on another backbone; nothing was '
            f'loaded. File: {given["type"]}, {given["tensors"]} frozen '
            f'tensors with {given["parameters"]} values. Model: '
            f'{mine["type"]}, {mine["tensors"]} with {mine["parameters"]}. '
            'Build the backbone (and heads that are not trained) of the '
            'config that trained the adapter.')
    if values and mine['values'] != given['values']:
        raise error(
            'The frozen weights are not those the adapter was trained on, '
            'though names and shapes agree; nothing was loaded. Load the '
            'same pretrained checkpoint (--backbone of a tool), in the same '
            'precision, or pass check=False (--no-check of a tool) if you '
            'know that they are equivalent.')
