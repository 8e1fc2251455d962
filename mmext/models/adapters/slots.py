# Copyright (c) mmext contributors. All rights reserved.
"""Where adapters live: beside the host's parts, under their own names."""
from typing import Callable, Dict, Iterator, Optional, Tuple, Type

import torch.nn as nn

SLOT = 'mosa'
"""Name under which a host module holds its adapters."""


class AdapterSlot(nn.ModuleDict):
    """The adapters of one host module, by name; at most one is in use.

    State-dict keys read ``<host module>.mosa.<adapter name>.<...>``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: Optional[str] = None
        self.enabled = True

    @property
    def current(self) -> Optional[nn.Module]:
        """nn.Module: The adapter in use, None for the plain host."""
        if not self.enabled or self.active is None:
            return None
        return self[self.active] if self.active in self else None


class AdaptedModule:
    """Mixin of the classes that a host module becomes when adapted.

    The instance keeps its parameters, buffers and names; only its class
    changes, to one whose ``forward`` asks the slot. Copies and moves to a
    device therefore work as for any module.
    """

    host_type: Type[nn.Module]
    # Whether ``forward`` goes through the host's own one.
    cooperative = False

    @property
    def adapter(self) -> Optional[nn.Module]:
        """nn.Module: The adapter in use, None for the plain host."""
        return self._modules[SLOT].current


def convert(module: nn.Module, adapted: Type[nn.Module]) -> None:
    """Turn a host module into its adapted class, with an empty slot."""
    if isinstance(module, AdaptedModule):
        return
    if hasattr(module, SLOT):
        raise ValueError(
            f'{type(module).__name__} already has an attribute {SLOT!r}, the '
            'name under which adapters are kept.')
    module.__class__ = adapted
    module.add_module(SLOT, AdapterSlot())
    module._modules[SLOT].train(module.training)


def attach(module: nn.Module, adapted: Type[nn.Module], name: str,
           adapter: nn.Module) -> None:
    """Give ``module`` an adapter.

    Args:
        module (nn.Module): A part of the host.
        adapted (type): Subclass of :class:`AdaptedModule` and of the
            module's class.
        name (str): Name of the adapter.
        adapter (nn.Module): The adapter.
    """
    convert(module, adapted)
    slot = module._modules[SLOT]
    slot[name] = adapter
    if slot.active is None:
        slot.active = name


def detach(module: nn.Module) -> None:
    """Take all adapters away; the module is what it was before."""
    if isinstance(module, AdaptedModule):
        del module._modules[SLOT]
        module.__class__ = module.host_type


def slots(model: nn.Module) -> Iterator[Tuple[str, AdapterSlot]]:
    """All slots of a model, with the name of the host module."""
    for name, module in model.named_modules():
        if isinstance(module, AdaptedModule):
            yield name, module._modules[SLOT]


_ADAPTED: Dict[Type[nn.Module], Type[nn.Module]] = {}


def register_adapted(cls: Type[nn.Module]) -> Type[nn.Module]:
    """Class decorator: ``cls`` is what its ``host_type`` becomes."""
    _ADAPTED[cls.host_type] = cls
    return cls


def adapted_class(module: nn.Module) -> Optional[Type[nn.Module]]:
    """What ``module`` becomes when adapted; None if it is unknown.

    A subclass of a known host counts as long as it keeps its ``forward``,
    or the adapted class calls it.
    """
    kind = type(module)
    if issubclass(kind, AdaptedModule):
        return kind
    if kind in _ADAPTED:
        return _ADAPTED[kind]
    for base in kind.__mro__[1:]:
        found = _ADAPTED.get(base)
        if found is not None and (found.cooperative
                                  or kind.forward is base.forward):
            _ADAPTED[kind] = type(f'{found.__name__}{kind.__name__}',
                                  (found, kind), dict(host_type=kind))
            return _ADAPTED[kind]
    return None


def known_hosts(condition: Callable[[type], bool]) -> Iterator[str]:
    """Names of the host classes whose adapted class meets ``condition``."""
    return (f'{host.__module__}.{host.__name__}'
            for host, cls in _ADAPTED.items() if condition(cls))
