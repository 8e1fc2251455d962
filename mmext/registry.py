# Copyright (c) mmext contributors. All rights reserved.
"""Child registries of mmengine's roots, all with ``scope='mmext'``.

Any host config may write ``type='mmext.X'``: mmengine imports this module by
its name, asks the child registry, and the first look-up imports the modules
in ``locations``. No ``custom_imports`` is needed.

A sub-package whose host toolbox is absent is skipped with
:func:`import_rim`; asking for one of its parts then raises an
``ImportError`` that names the package and the extra.
"""
from difflib import get_close_matches
from importlib import import_module
from typing import Dict, List, Optional

from .utils.dependency import has, missing_message, require

_NEEDED_BY = "A look-up of type='mmext.X'"
_root = require('mmengine.registry', _NEEDED_BY)

# Sub-package of mmext -> why it was not loaded.
_SKIPPED: Dict[str, str] = {}


def import_rim(package: str, hosts: Dict[str, str]) -> List[str]:
    """Import the sub-packages whose host is installed, note the others.

    Args:
        package (str): The importing package, its ``__name__``.
        hosts (dict[str, str]): Sub-package name -> import name of its host.

    Returns:
        list[str]: The sub-packages that were imported.
    """
    loaded = []
    for name, host in hosts.items():
        module = f'{package}.{name}'
        if not has(host):
            _SKIPPED[module] = missing_message(host, module)
            continue
        try:
            import_module(module)
            loaded.append(name)
        except Exception as error:
            # A host that is there but does not import must not take down
            # the parts that do not need it. Not only ImportError: a
            # torchvision that does not fit torch raises RuntimeError.
            _SKIPPED[module] = (
                f'{module} could not be imported, because {host} or what it '
                f'needs is broken: {type(error).__name__}: {error}.')
    return loaded


class Registry(_root.Registry):
    """mmengine's ``Registry`` with a look-up failure that says the remedy.

    A miss raises ``ImportError`` when parts were skipped for want of a host,
    and ``KeyError`` with the nearest names when the name is misspelt;
    upstream returns ``None``, and the caller's message is the same for both.
    """

    def get(self, key: str):
        """Look ``key`` up; a miss says why and what to do.

        Args:
            key (str): Name, with or without ``mmext.``.

        Raises:
            ImportError: If parts were skipped for want of a host.
            KeyError: If every part is loaded and none has the name.
        """
        found = super().get(key)
        name = key.split('.')[-1]
        if found is not None or (self.scope != key.split('.')[0]
                                 and '.' in key):
            return found
        if _SKIPPED:
            parts = sorted(_SKIPPED)
            raise ImportError(
                f"'mmext.{name}' is not registered in mmext's "
                f'{self.name!r} registry. These parts of mmext were not '
                f'loaded: {", ".join(parts)}. ' + ' '.join(_SKIPPED[part]
                                                           for part in parts))
        near = get_close_matches(name, self._module_dict, n=3)
        hint = f' Did you mean {", ".join(near)}?' if near else \
            f' Known names: {", ".join(sorted(self._module_dict)) or "none"}.'
        raise KeyError(f"'mmext.{name}' is not in mmext's {self.name!r} "
                       f'registry.{hint}')


def _child(name: str,
           parent: str,
           locations: Optional[List[str]] = None) -> Registry:
    return Registry(
        name,
        parent=getattr(_root, parent),
        scope='mmext',
        locations=locations or [])


HOOKS = _child('hook', 'HOOKS', ['mmext.engine'])
LOOPS = _child('loop', 'LOOPS', ['mmext.engine'])
OPTIMIZERS = _child('optimizer', 'OPTIMIZERS', ['mmext.engine'])
OPTIM_WRAPPERS = _child('optim_wrapper', 'OPTIM_WRAPPERS', ['mmext.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = _child('optimizer wrapper constructor',
                                    'OPTIM_WRAPPER_CONSTRUCTORS',
                                    ['mmext.engine'])
PARAM_SCHEDULERS = _child('parameter scheduler', 'PARAM_SCHEDULERS',
                          ['mmext.engine'])
MODELS = _child('model', 'MODELS', ['mmext.models'])
TASK_UTILS = _child('task util', 'TASK_UTILS', ['mmext.models'])
DATASETS = _child('dataset', 'DATASETS', ['mmext.datasets'])
DATA_SAMPLERS = _child('data sampler', 'DATA_SAMPLERS', ['mmext.datasets'])
TRANSFORMS = _child('transform', 'TRANSFORMS', ['mmext.datasets'])
METRICS = _child('metric', 'METRICS', ['mmext.evaluation'])
VISUALIZERS = _child('visualizer', 'VISUALIZERS', ['mmext.visualization'])
INFERENCERS = _child('inferencer', 'INFERENCERS', ['mmext.apis'])
