# Copyright (c) mmext contributors. All rights reserved.
"""Child registries of mmengine's roots, all with ``scope='mmext'``.

Any host config may write ``type='mmext.X'``: mmengine imports this module by
its name, asks the child registry, and the first look-up imports the modules
in ``locations``. No ``custom_imports`` is needed.

A sub-package whose host toolbox is absent is skipped with
:func:`import_rim`; asking for one of its parts then raises an
``ImportError`` that names the package and the extra.

Depth and spike parts, and what their training needs, have a second home:
there is no mmdepth package, so :data:`DEPTH_REGISTRIES` holds one child per
root with ``scope='mmdepth'``, and :func:`register_depth` makes a class answer
to ``mmext.X`` and ``mmdepth.X``. ``default_scope='mmdepth'`` and
``type='mmdepth.X'`` work wherever mmext is imported (see
:func:`mmext.compat.provide_depth_scope`).
"""
from difflib import get_close_matches
from importlib import import_module
from typing import Callable, Dict, List, Optional

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
            key (str): Name, with or without the scope.

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
                f"'{self.scope}.{name}' is not registered in mmext's "
                f'{self.name!r} registry. These parts of mmext were not '
                f'loaded: {", ".join(parts)}. ' + ' '.join(_SKIPPED[part]
                                                           for part in parts))
        near = get_close_matches(name, self._module_dict, n=3)
        hint = f' Did you mean {", ".join(near)}?' if near else \
            f' Known names: {", ".join(sorted(self._module_dict)) or "none"}.'
        raise KeyError(f"'{self.scope}.{name}' is not in mmext's "
                       f'{self.name!r} registry.{hint}')


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

# All roots, also those that mmext itself has no child of: with
# default_scope='mmdepth' mmengine asks every one of them for that child, and
# warns where there is none.
DEPTH_REGISTRIES: Dict[str, Registry] = {}


def _depth_twins() -> None:
    ours = {
        one.parent: one
        for one in list(globals().values())
        if isinstance(one, Registry) and one.scope == 'mmext'
    }
    for kind, root in vars(_root).items():
        if isinstance(root, _root.Registry):
            locations = ours[root]._locations if root in ours else []
            DEPTH_REGISTRIES[kind] = Registry(
                root.name, parent=root, scope='mmdepth', locations=locations)


_depth_twins()


def register_depth(registry: Registry, **kwargs) -> Callable:
    """Register a depth or spike part as ``mmext.X`` and as ``mmdepth.X``.

    Args:
        registry (Registry): One of this module's registries, such as
            ``MODELS``.
        **kwargs: ``name`` and ``force`` of mmengine's ``register_module``.

    Returns:
        Callable: A decorator that returns the class as it is.

    Raises:
        ValueError: If ``registry`` is not one of this module's.

    Example:
        >>> from mmext.registry import MODELS, register_depth
        >>> @register_depth(MODELS)
        ... class MyDepthHead:
        ...     pass
        >>> MODELS.build(dict(type='mmdepth.MyDepthHead'))
    """
    twin = next((one for one in DEPTH_REGISTRIES.values()
                 if one.parent is registry.parent), None)
    if twin is None or registry.scope != 'mmext':
        raise ValueError(
            'Expected a registry of mmext.registry, such as MODELS, but got '
            f'{registry.name!r} of scope {registry.scope!r}.')

    def register(cls: type) -> type:
        twin.register_module(module=cls, **kwargs)
        return registry.register_module(module=cls, **kwargs)

    return register
