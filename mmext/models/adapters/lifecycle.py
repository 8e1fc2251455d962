# Copyright (c) mmext contributors. All rights reserved.
"""What can be done with adapters besides training them."""
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from logging import WARNING
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence

import torch
import torch.nn as nn
from mmengine.logging import print_log
from torch import Tensor

from mmext.registry import MODELS
from .heads import with_classes_of
from .injection import Plan, plain
from .slots import detach, slots
from .split_linear import SplitLinear
from .split_options import SplitOptions
from .standard import fold, replace_split_layers, standard_config

TASKS = 'mosa_tasks'
"""Child of the host that holds the heads of adapters not in use."""
# Attributes that mmseg's segmentors copy from their decode head.
_COPIED = ('align_corners', 'num_classes', 'out_channels')
_SPLIT_KEYS = {field.name for field in fields(SplitOptions)}


class AdapterLifecycle:
    """Mixin of ``MoSAModel``: several adapters, merging, taking them off."""

    # Several adapters ------------------------------------------------------

    @property
    def adapter_names(self) -> List[str]:
        """list[str]: Names of all adapters."""
        return list(self.adapter_cfgs)

    @property
    def active_adapter(self) -> str:
        """str: Name of the adapter in use."""
        return self._active

    def plan_of(self, name: str) -> Plan:
        """The plan by which an adapter was injected.

        Raises:
            ValueError: If there is no such adapter.
        """
        if name not in self.adapter_cfgs:
            raise ValueError(f'There is no adapter {name!r}; the model has '
                             f'{", ".join(self.adapter_cfgs) or "none"}.')
        cfg = self.adapter_cfgs[name]
        return Plan(cfg['adapter'], cfg['split'], cfg['targets'])

    def add_adapter(self,
                    name: str,
                    adapter: Optional[dict] = None,
                    targets: Optional[Sequence[dict]] = None,
                    head: Optional[dict] = None,
                    **split: Any) -> None:
        """Add an adapter for another task; the active one stays active.

        With ``train_head=True`` each adapter has heads of its own.

        Args:
            name (str): New name, without dots.
            adapter (dict, optional): As in the model's config. Defaults to
                None, that of the active adapter with its targets and split.
            targets (Sequence[dict], optional): As in the model's config.
            head (dict, optional): Config of its head; for a host with
                several heads a dict of configs by attribute name. Defaults
                to None, a copy of the active adapter's heads.
            **split: ``num_modules``, ``split``, ... where they differ.

        Raises:
            ValueError: If the name is taken, or an option is wrong; the
                model is then as it was.
        """
        plan = self._plan_of_new(name, adapter, targets, split)
        heads = self._build_heads(head)
        with self.all_or_nothing(name):
            like = next((p for adapter in self.adapter_modules().values()
                         for p in adapter.parameters()), None)
            plan.inject(self.module, name)
            self.adapter_cfgs[name] = plain(
                dict(
                    adapter=dict(adapter or self._active_cfg['adapter']),
                    targets=plan.targets,
                    split=plan.split))
            for _, slot in slots(self):
                slot.active = self._active
                if name in slot:
                    where = next(self.parameters()).device
                    slot[name].to(
                        where, like.dtype if like is not None else None).train(
                            slot.training)
            if self._own_heads():
                self._tasks()[name] = nn.ModuleDict(heads)
            self._freeze()

    @property
    def _active_cfg(self) -> dict:
        return self.adapter_cfgs[self._active]

    def _plan_of_new(self, name: str, adapter: Optional[dict],
                     targets: Optional[Sequence[dict]], split: dict) -> Plan:
        if not isinstance(name, str) or not name or '.' in name:
            raise ValueError('The name of an adapter is text without dots, '
                             f'but got {name!r}.')
        if name in self.adapter_cfgs:
            raise ValueError(f'There is an adapter {name!r} already; choose '
                             'another name, or delete_adapter() it first.')
        unknown = sorted(set(split) - _SPLIT_KEYS)
        if unknown:
            raise ValueError(f'{", ".join(unknown)}: not an option of the '
                             f'split; known are '
                             f'{", ".join(sorted(_SPLIT_KEYS))}.')
        current = self._active_cfg
        base = current['split'] if adapter is None else self.split_cfg
        if adapter is None:
            adapter = current['adapter']
            targets = current['targets'] if targets is None else targets
        plan = Plan(adapter, dict(base, **split), targets)
        if {plan.type, self.plan_of(self._active).type
            } & {'BitFit', 'FullFineTune'} or not isinstance(
                self.train_head, bool):
            raise ValueError(
                'Several adapters on one host need a host that none of them '
                'changes: BitFit, FullFineTune and patterns in train_head '
                'train parts of it. Use a model for each, or train_head=True.')
        return plan

    def _own_heads(self) -> List[str]:
        """Children of the host that each adapter has for itself."""
        if self.train_head is not True:
            return []
        return [
            name for name, child in self._modules.items()
            if self.is_head(name) and child is not None
        ]

    def _tasks(self) -> nn.ModuleDict:
        if TASKS not in self._modules:
            self._modules[TASKS] = nn.ModuleDict()
        return self._modules[TASKS]

    def _build_heads(self, head: Optional[dict]) -> Dict[str, nn.Module]:
        names = self._own_heads()
        if head is None:
            return {name: deepcopy(self._modules[name]) for name in names}
        configs = {names[0]: head} if len(names) == 1 and 'type' in head \
            else dict(head)
        if not names or set(configs) - set(names):
            raise ValueError(
                f'head configures {sorted(configs)}, but the adapters of '
                f'this model have {names or "no heads"} of their own '
                f'(train_head={self.train_head!r}).')
        heads = {}
        for name in names:
            if name not in configs:
                heads[name] = deepcopy(self._modules[name])
                continue
            heads[name] = MODELS.build(configs[name])
            if hasattr(heads[name], 'init_weights'):
                heads[name].init_weights()
            like = next(self._modules[name].parameters())
            heads[name].to(like.device,
                           like.dtype).train(self._modules[name].training)
        return heads

    def use_head(self, child: str, head: nn.Module) -> None:
        """Put a head in the host's place ``child``, with what it copies."""
        self._modules[child] = head
        for key in _COPIED:
            if key in vars(self.module) and hasattr(head, key) \
                    and child != 'auxiliary_head':
                setattr(self.module, key, getattr(head, key))

    def fit_heads(self, name: str, tensors: Dict[str, Tensor]) -> dict:
        """Give an adapter's heads the number of classes of a file.

        Args:
            name (str): The adapter.
            tensors (dict[str, Tensor]): By the host's names.

        Returns:
            dict[str, nn.Module]: The heads in use that were replaced.
        """
        replaced = {}
        heads = {child: self._modules[child] for child in self._own_heads()}
        if name != self._active:
            heads = dict(self._tasks()[name].items()) if heads else {}
        for child, head in heads.items():
            start = len(child) + 1
            fitted = with_classes_of(
                head, {
                    key[start:]: value
                    for key, value in tensors.items()
                    if key.startswith(f'{child}.')
                })
            if fitted is head:
                continue
            if name == self._active:
                replaced[child] = head
                self.use_head(child, fitted)
            else:
                self._tasks()[name][child] = fitted
        return replaced

    def set_active(self, name: str) -> None:
        """Use another adapter, with its heads; the backbone is not touched.

        Only what belongs to the active adapter is trainable. An optimizer
        made before does not know the new one.

        Raises:
            ValueError: If there is no such adapter.
        """
        self.plan_of(name)
        if name == self._active:
            return
        if self.merged:
            print_log(
                f'The adapter {self._active!r} is merged and stays so while '
                f'{name!r} is in use.',
                logger='current',
                level=WARNING)
        if TASKS in self._modules and name in self._tasks():
            heads = dict(self._tasks()[name].items())
            del self._tasks()[name]
            self._tasks()[self._active] = nn.ModuleDict(
                {child: self._modules[child]
                 for child in heads})
            for child, head in heads.items():
                self.use_head(child, head)
        self._active = name
        for _, slot in slots(self):
            slot.active = name
        self._drawing = None
        self._freeze()

    def delete_adapter(self, name: str) -> None:
        """Remove an adapter and its heads.

        Raises:
            ValueError: If there is no such adapter, or it is in use.
            RuntimeError: If it is merged.
        """
        self.plan_of(name)
        if any(layer.merged for layer in self._layers_of(name)):
            raise RuntimeError(f'The adapter {name!r} is merged. Make it '
                               'active and unmerge() before deleting it.')
        if name == self._active:
            raise ValueError(f'The adapter {name!r} is in use; set_active() '
                             'another one, or unload() the model.')
        self._drop(name,
                   [path for path, slot in slots(self) if name not in slot])

    def _layers_of(self, name: str) -> List[SplitLinear]:
        return [
            layer for adapter in self.adapter_modules(name).values()
            for layer in adapter.modules() if isinstance(layer, SplitLinear)
        ]

    def _drop(self, name: str, keep: Sequence[str]) -> None:
        """Remove an adapter; slots that are empty then go, but ``keep``."""
        for path, slot in list(slots(self)):
            if name in slot:
                del slot[name]
            if not len(slot) and path not in keep:
                detach(self.module.get_submodule(path))
        self.adapter_cfgs.pop(name, None)
        if TASKS in self._modules:
            if name in self._tasks():
                del self._tasks()[name]
            if not len(self._tasks()):
                del self._modules[TASKS]

    @contextmanager
    def all_or_nothing(self, name: str) -> Iterator[None]:
        """Context: an error takes the new adapter ``name`` away again."""
        keep = [path for path, _ in slots(self)]
        try:
            yield
        except BaseException:
            self._drop(name, keep)
            raise

    @contextmanager
    def disable_adapters(self) -> Iterator[None]:
        """Within the context the host computes without adapters."""
        before = [(slot, slot.enabled) for _, slot in slots(self)]
        try:
            for slot, _ in before:
                slot.enabled = False
            yield
        finally:
            for slot, enabled in before:
                slot.enabled = enabled

    # Merging ---------------------------------------------------------------

    @property
    def merged(self) -> bool:
        """bool: Whether the active adapters are collapsed."""
        return any(layer.merged for layer in self.split_layers().values())

    def merge(self, safe: bool = True) -> None:
        """Collapse the active adapters to standard ones; idempotent.

        The modules are kept aside for :meth:`unmerge`; :meth:`collapse`
        frees them.

        Args:
            safe (bool): Check first that all merged values are finite.
                Defaults to True.

        Raises:
            RuntimeError: If ``safe`` and they are not; nothing is merged.
        """
        layers = self.split_layers()
        if safe:
            _refuse_spoilt(layers.values())
        for layer in layers.values():
            layer.merge()

    def unmerge(self) -> None:
        """Bring the modules back, bit for bit as they were."""
        for layer in self.split_layers().values():
            layer.unmerge()
        self._freeze()

    @torch.no_grad()
    def collapse(self, name: Optional[str] = None) -> None:
        """Merge for good: modules become ordinary layers.

        Nothing N-fold remains in memory, and the adapter is what a model
        with ``num_modules=1`` has.

        Args:
            name (str, optional): Defaults to None, the active adapter.

        Raises:
            RuntimeError: If a merged value is not finite; nothing is merged.
        """
        name = name or self._active
        self.plan_of(name)
        cfg = self.adapter_cfgs[name]
        _refuse_spoilt(self._layers_of(name))
        for adapter in self.adapter_modules(name).values():
            replace_split_layers(adapter)
        self.adapter_cfgs[name] = standard_config(cfg)
        self._drawing = None
        self._freeze()

    # Taking them off -------------------------------------------------------

    def unload(self) -> nn.Module:
        """Take all adapters off and return the plain host.

        It has its frozen weights, the heads of the active adapter, and its
        own classes and ``requires_grad`` flags. This wrapper is then of no
        more use.
        """
        for path, _ in list(slots(self)):
            detach(self.module.get_submodule(path))
        self._state_check.remove()
        self._modules.pop(TASKS, None)
        self.adapter_cfgs = {}
        self._drawing = None
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._host_flags.get(name, True))
        return self.module

    def merge_and_unload(self, safe: bool = True) -> nn.Module:
        r"""Fold the active adapter into the host's weights; return the host.

        LoRA and MoSL: :math:`W \leftarrow W + s \cdot B A` with merged A and
        B. SSF: :math:`W \leftarrow \gamma \odot W`,
        :math:`b \leftarrow \gamma \odot b + \beta`, a new b where a layer
        has none (the downsampling of Swin). Other adapters on the model are
        lost.

        Args:
            safe (bool): Check first that all values are finite.
                Defaults to True.

        Returns:
            nn.Module: The host, without any part of mmext.

        Raises:
            RuntimeError: If the adapter cannot be folded: bottleneck
                adapters have a non-linearity, and ``o_reads='input'`` reads
                elsewhere; or if ``safe`` and a value is not finite. Nothing
                is changed then.
        """
        fold(self.module, self._active, safe)
        return self.unload()


def _refuse_spoilt(layers: Iterable[SplitLinear]) -> None:
    """Raise unless all layers merge to finite values."""
    for layer in layers:
        for value in (layer.merged_weight(), layer.merged_bias()):
            if value is not None and not torch.isfinite(value).all():
                raise RuntimeError(
                    f'Merging {layer} would give values that are not finite; '
                    'nothing was merged. Go back to an earlier checkpoint.')
