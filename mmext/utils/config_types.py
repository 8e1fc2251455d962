# Copyright (c) mmext contributors. All rights reserved.
"""Find every ``type`` of a config and what it stands for.

Which registry builds a nested dict follows from where it stands: its path
begins with a key that the runner owns (``default_hooks`` holds hooks), and
some keys change the registry below them (``pipeline`` holds transforms).
"""
import inspect
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from mmengine import registry as roots
from mmengine.registry import DefaultScope, Registry

from .dependency import has

# Keys that the runner reads at the top of a config -> registry below them.
TOP_KEYS: Dict[str, Optional[str]] = dict(
    model='MODELS',
    data_preprocessor='MODELS',
    train_dataloader='DATASETS',
    val_dataloader='DATASETS',
    test_dataloader='DATASETS',
    train_cfg='LOOPS',
    val_cfg='LOOPS',
    test_cfg='LOOPS',
    optim_wrapper='OPTIM_WRAPPERS',
    param_scheduler='PARAM_SCHEDULERS',
    val_evaluator='METRICS',
    test_evaluator='METRICS',
    default_hooks='HOOKS',
    custom_hooks='HOOKS',
    visualizer='VISUALIZERS',
    vis_backends='VISBACKENDS',
    log_processor='LOG_PROCESSORS',
    model_wrapper_cfg='MODEL_WRAPPERS',
    tta_model='MODELS',
    tta_pipeline='TRANSFORMS')

# Keys that change the registry, at any depth below the one on the left.
_NESTED_KEYS = dict(
    pipeline='TRANSFORMS',
    transforms='TRANSFORMS',
    dataset='DATASETS',
    datasets='DATASETS',
    domains='DATASETS',
    batch_sampler='DATA_SAMPLERS',
    collate_fn='FUNCTIONS',
    worker_init_fn='FUNCTIONS',
    evaluator='METRICS',
    metrics='METRICS',
    init_cfg='WEIGHT_INITIALIZERS',
    override='WEIGHT_INITIALIZERS',
    optimizer='OPTIMIZERS',
    vis_backends='VISBACKENDS',
    method='TASK_UTILS')

# Whose dicts are built with exactly this registry and no other.
_STRICT = ('HOOKS', 'PARAM_SCHEDULERS', 'LOOPS', 'OPTIM_WRAPPERS',
           'OPTIMIZERS', 'TRANSFORMS', 'DATASETS', 'DATA_SAMPLERS',
           'EVALUATOR')

# Where a dict with the key `metrics` is an evaluator; any other is a metric.
EVALUATOR_PATHS = ('val_evaluator', 'test_evaluator', 'train_cfg.evaluator')

# The default type of a dict that the runner builds without one.
DEFAULT_TYPES = dict(
    optim_wrapper='OptimWrapper',
    val_cfg='ValLoop',
    test_cfg='TestLoop',
    log_processor='LogProcessor')


def type_name(kind: Any) -> str:
    """The name in a ``type`` of a config, without scope or module.

    Args:
        kind (Any): A string, such as ``'mmext.SVDP'``, or the class itself,
            as new-style configs have it.

    Returns:
        str: ``'SVDP'``; ``'None'`` where there is no type.
    """
    return getattr(kind, '__name__', None) or str(kind).split('.')[-1]


class TypedDict(NamedTuple):
    """One dict of a config that a registry builds.

    Args:
        path (str): Where it stands, such as ``model.decode_head``.
        key (str): The nearest key above it, such as ``decode_head``.
        node (dict): The dict itself.
        registry (str, optional): Name of mmengine's root registry that
            builds it; ``None`` when the place does not tell.
        scope (str, optional): The ``_scope_`` it is under, if any.
        direct (bool): The dict stands right below the key that names the
            registry, so that no other registry can be meant.
    """

    path: str
    key: str
    node: dict
    registry: Optional[str]
    scope: Optional[str]
    direct: bool


def typed_dicts(cfg: dict) -> Iterator[TypedDict]:
    """Walk a config and yield every dict that has a ``type``.

    Args:
        cfg (dict): A parsed config, or its ``_cfg_dict``.

    Yields:
        TypedDict: In the order of the config, outer before inner.
    """
    for key in cfg:
        if key in TOP_KEYS:
            yield from _walk(cfg[key], key, key, TOP_KEYS[key], None, True)


def _walk(node: Any, path: str, key: str, registry: Optional[str],
          scope: Optional[str], direct: bool) -> Iterator[TypedDict]:
    if isinstance(node, (list, tuple)):
        for i, item in enumerate(node):
            yield from _walk(item, f'{path}[{i}]', key, registry, scope,
                             direct)
        return
    if not isinstance(node, dict):
        return
    scope = node.get('_scope_', scope)
    typed = node.get('type') is not None
    if path in EVALUATOR_PATHS and 'metrics' in node:
        node = dict(node)
        node.setdefault('type', 'Evaluator')
        yield TypedDict(path, key, node, 'EVALUATOR', scope, True)
    elif typed:
        yield TypedDict(path, key, node, registry, scope, direct)
    elif path in DEFAULT_TYPES or path == 'train_cfg':
        node = dict(node)
        node['type'] = _default_type(path, node)
        yield TypedDict(path, key, node, registry, scope, direct)
    for name, value in node.items():
        name = str(name)
        if name == 'transforms' and str(node.get('type')).startswith('Albu'):
            continue  # names of the package albumentations
        if name == 'adapter' and str(node.get('type')).endswith('MoSAModel'):
            continue  # its types are no registered names; the model checks
        if name == 'clip_grad' and registry == 'OPTIM_WRAPPERS':
            continue  # its type is 'norm' or 'value'; the wrapper checks
        if name == 'threshold' and key == 'scp':
            continue  # its type is a rule of CrossDomainAdapter
        inner, inner_direct = registry, direct and not typed
        if name in _NESTED_KEYS and key != 'metainfo':
            inner, inner_direct = _NESTED_KEYS[name], True
        elif name == 'sampler':
            is_loader = path.endswith('_dataloader')
            inner = 'DATA_SAMPLERS' if is_loader else 'TASK_UTILS'
            inner_direct = is_loader
        yield from _walk(value, f'{path}.{name}', name, inner, scope,
                         inner_direct)


def _default_type(path: str, node: dict) -> str:
    if path == 'train_cfg':
        by_epoch = node.pop('by_epoch', 'max_epochs' in node)
        return 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    return DEFAULT_TYPES[path]


@contextmanager
def config_scope(cfg: dict) -> Iterator[str]:
    """Enter the ``default_scope`` of a config, and leave it afterwards."""
    scope = cfg.get('default_scope') or 'mmengine'
    with DefaultScope.overwrite_default_scope(scope):
        yield scope


def resolve(item: TypedDict) -> Tuple[Any, Optional[str]]:
    """Look up the class or function that a dict's ``type`` names.

    Call it inside :func:`config_scope`.

    Args:
        item (TypedDict): From :func:`typed_dicts`.

    Returns:
        tuple: The class or function (``None`` if there is none) and a
        sentence that says what is wrong (``None`` if nothing is).
    """
    name = item.node['type']
    if not isinstance(name, str):
        return name, None if callable(name) else \
            f'type must be a name or a class, got {type(name).__name__}'
    message = f'{name!r} is not a registered name'
    if item.registry is not None:
        registry = getattr(roots, item.registry)
        try:
            found = _get(registry, name, item.scope)
        except (ImportError, KeyError) as error:
            found, message = None, str(error.args[0] if error.args else error)
        if found is not None:
            return found, None
    kinds = _other_kinds(name, item)
    package = name.split('.')[0]
    if not kinds and '.' in name and not has(package):
        message = f'{name!r} needs the package {package!r}, which is not ' \
            'installed'
    if not kinds:
        return None, message
    kind, found = kinds[0]
    if item.direct and item.registry in _STRICT:
        wanted = getattr(roots, item.registry).name
        article = 'an' if wanted[0] in 'aeiou' else 'a'
        return None, f'{name!r} is a {kind}, where {article} {wanted} is ' \
            'expected'
    return found, None


def _get(registry: Registry, name: str, scope: Optional[str]) -> Any:
    with registry.switch_scope_and_registry(scope) as current:
        return current.get(name)


def _other_kinds(name: str, item: TypedDict) -> List[Tuple[str, Any]]:
    """The other registries that know the name, with what they hold."""
    current = DefaultScope.get_current_instance()
    scope = item.scope or (current.scope_name if current else 'mmengine')
    found = []
    for attribute in dir(roots):
        registry = getattr(roots, attribute)
        if isinstance(registry, Registry) and attribute != item.registry:
            # `switch_scope_and_registry` would warn where a host has no child
            child = registry._search_child(scope) or registry
            try:
                value = child.get(name)
            except (ImportError, KeyError):
                continue
            if value is not None:
                found.append((registry.name, value))
    try:  # a host's own registries that have no parent in mmengine
        module = import_module(f'{scope}.registry')
    except ImportError:
        return found
    for registry in vars(module).values():
        if isinstance(registry, Registry) and registry.parent is None:
            try:
                value = registry.get(name)
            except (ImportError, KeyError):
                continue
            if value is not None:
                found.append((registry.name, value))
    return found


def is_adaptation(cfg: dict) -> bool:
    """Whether the train loop of a config adapts a model at test time.

    Args:
        cfg (dict): A config.

    Returns:
        bool: ``True`` for ``mmext.TestTimeAdaptLoop`` and what derives of it.
    """
    loop = cfg.get('train_cfg') or {}
    if not loop.get('type'):
        return False
    if type_name(loop['type']) == 'TestTimeAdaptLoop':
        return True
    with config_scope(cfg):
        found, _ = resolve(next(typed_dicts(dict(train_cfg=loop))))
    return inspect.isclass(found) and any(
        type_name(owner) == 'TestTimeAdaptLoop'
        for owner in inspect.getmro(found))
