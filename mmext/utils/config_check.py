# Copyright (c) mmext contributors. All rights reserved.
"""Check a config without running it.

``tools/misc/check_config.py`` and ``tests/test_configs.py`` share this
module. A config that passes parses, names only things that exist, passes
only arguments that they accept, and builds.
"""
import logging
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from typing import Any, Iterator, List, NamedTuple, Optional, Set, Tuple

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from .config_build import build_findings
from .config_io import load_config, merge_options
from .config_paths import path_findings
from .config_signature import accepted_arguments, is_foreign
from .config_types import (TOP_KEYS, TypedDict, config_scope, resolve,
                           typed_dicts)
from .user_error import UserError

# Keys that mmengine's config system or registries read, never the class.
_SYSTEM_KEYS = {'type', '_scope_', '_delete_'}
# Keys that whoever builds the dict takes out or gives itself.
_BUILDER_KEYS = dict(
    PARAM_SCHEDULERS={'convert_to_iter_based'},
    HOOKS={'priority'},
    OPTIM_WRAPPERS={'constructor', 'paramwise_cfg', 'optimizer'},
    VISBACKENDS={'save_dir'})
# Arguments that are given by whoever builds the dict.
_INJECTED = dict(
    LOOPS={'runner', 'dataloader', 'evaluator'},
    DATA_SAMPLERS={'dataset', 'sampler', 'batch_size'},
    OPTIMIZERS={'params'},
    OPTIM_WRAPPERS={'optimizer'},
    PARAM_SCHEDULERS={'optimizer'},
    VISBACKENDS={'save_dir'},
    MODEL_WRAPPERS={'module'})
# Top-level keys that are read by someone but are no argument of the runner.
_OTHER_KEYS = {
    'custom_imports', 'tta_model', 'tta_pipeline', 'vis_backends', 'sync_bn',
    'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'compile',
    'filename', 'load_from_help', 'weights_help', 'local_rank', 'strategy',
    'stages'
}


class Finding(NamedTuple):
    """One thing that is wrong with a config.

    Args:
        level (str): ``'error'`` or ``'warning'``.
        path (str): Where in the config, such as ``model.decode_head``.
        message (str): What is wrong and what was expected.
    """

    level: str
    path: str
    message: str

    def __str__(self) -> str:
        text = ' '.join(self.message.split())
        return f'{self.level}: {self.path}: {text}'


def check_config(cfg: Any,
                 allow_missing_paths: bool = False,
                 build: bool = True) -> List[Finding]:
    """Check a parsed config.

    Args:
        cfg (Config): From ``mmengine.Config.fromfile``. It is not changed.
        allow_missing_paths (bool): Report a missing data folder or
            checkpoint as a warning. Defaults to False.
        build (bool): Also build model, pipelines, datasets (without reading
            data), hooks, metrics and the optimizer. Large models get
            parameters without storage. Defaults to True.

    Returns:
        list[Finding]: Errors first; empty for a sound config.

    Example:
        >>> cfg = load_config('configs/svdp/cityscapes_acdc.py')
        >>> for finding in check_config(cfg, allow_missing_paths=True):
        ...     print(finding)
    """
    tree = cfg._cfg_dict if hasattr(cfg, '_cfg_dict') else cfg
    findings = list(group_findings(tree))
    with config_scope(tree):
        types = [finding for _, finding in type_findings(tree)]
        findings += types
        findings += _key_findings(tree)
        with _quiet():
            if build and not any(f.level == 'error' for f in findings):
                findings += [Finding(*f) for f in build_findings(tree)]
            if not any(f.level == 'error' for f in types):
                level = 'warning' if allow_missing_paths else 'error'
                findings += [Finding(level, *f) for f in path_findings(tree)]
    unique = dict.fromkeys(findings)
    return sorted(unique, key=lambda f: f.level != 'error')


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the logs of what is built from burying the findings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def type_findings(tree: dict) -> Iterator[Tuple[TypedDict, Finding]]:
    """Types that do not resolve and arguments that do not fit.

    Below a class of the user a `type` may be no registered name, but an
    option that the class reads itself. Building the class is the check.
    Call it inside :func:`~mmext.utils.config_types.config_scope`.

    Args:
        tree (dict): A parsed config.

    Yields:
        tuple[TypedDict, Finding]: Where it stands and what is wrong there.
    """
    owners: List[str] = []
    for item in typed_dicts(tree):
        unsure = not str(item.node['type']).startswith('mmext.') and any(
            item.path.startswith((f'{p}.', f'{p}[')) for p in owners)
        found, problem = resolve(item)
        findings = [] if problem is None else \
            [Finding('error', item.path, problem)]
        if found is not None:
            findings += argument_findings(item, found)
            if is_foreign(found):
                owners.append(item.path)
        for finding in findings:
            if unsure:
                finding = finding._replace(level='warning')
            yield item, finding


def argument_findings(item: TypedDict, found: Any) -> Iterator[Finding]:
    """Arguments that a class does not take, and needed ones that lack.

    Args:
        item (TypedDict): Where the class stands in the config.
        found (type | Callable): The class or function itself.

    Yields:
        Finding: One for each such argument.
    """
    if item.path.startswith('model') and item.key.endswith('_cfg') and \
            item.key != 'init_cfg':
        return  # builders of norm_cfg and the like take keys out first
    if '.policies' in item.path:
        return  # automatic augmentation adds magnitude keys to each policy
    accepted = accepted_arguments(found)
    given = {str(k) for k in item.node} - _SYSTEM_KEYS
    given -= _BUILDER_KEYS.get(item.registry, set())
    name = getattr(found, '__name__', str(found))
    unknown = set() if accepted.names is None else given - accepted.names
    for key in sorted(unknown):
        near = get_close_matches(key, accepted.names, n=1)
        hint = f' Did you mean {near[0]!r}?' if near else \
            f' It accepts: {", ".join(sorted(accepted.names))}.'
        verb = 'ignores the' if accepted.swallowed else 'has no'
        level = 'warning' if accepted.swallowed else 'error'
        yield Finding(level, item.path, f'{name} {verb} argument {key!r}.'
                      f'{hint}')
    for key in sorted(given & accepted.numbers):
        if isinstance(item.node[key], str):
            yield _no_number(item, found, key)
    for key in sorted(given & accepted.switches):
        if isinstance(item.node[key], str):
            # most classes take any text for True, an option of a host may
            # be more than its annotation says
            own = str(getattr(found, '__module__', '')).startswith('mmext.')
            yield Finding(
                'error' if own else 'warning', item.path,
                f'{name} expects True or False for the argument {key!r}, but '
                f'got the text {item.node[key]!r}.')
    if accepted.names is None:
        return
    injected = _INJECTED.get(item.registry, set())
    if item.registry in (None, 'MODELS', 'TASK_UTILS', 'METRICS', 'FUNCTIONS',
                         'WEIGHT_INITIALIZERS', 'VISUALIZERS'):
        return  # filled in by the parent; building them is the check
    for key in sorted(accepted.required - given - injected):
        if key not in item.node:
            yield Finding('error', item.path,
                          f'{name} needs the argument {key!r}.')


def _no_number(item: TypedDict, found: Any, key: str) -> Finding:
    """Text for an argument that is annotated as a number."""
    value, level = item.node[key], 'warning'
    try:
        float(value)  # some classes convert it
    except ValueError:
        level = 'warning' if is_foreign(found) else 'error'
    name = getattr(found, '__name__', str(found))
    return Finding(
        level, item.path, f'{name} expects a number for the argument {key!r}, '
        f'but got the text {value!r}.')


def group_findings(tree: dict) -> Iterator[Finding]:
    """Keys that the runner wants together."""
    if tree.get('model') is None:
        yield Finding('error', 'model', 'a config needs a `model`.')
    loop = tree.get('train_cfg')
    if loop is not None and not {'type', 'by_epoch'} & set(loop):
        yield Finding('error', 'train_cfg', 'needs a `type` or `by_epoch`.')
    groups = (('train_dataloader', 'train_cfg', 'optim_wrapper'),
              ('val_dataloader', 'val_cfg', 'val_evaluator'),
              ('test_dataloader', 'test_cfg', 'test_evaluator'))
    for group in groups:
        missing = [key for key in group if tree.get(key) is None]
        if missing and len(missing) < len(group):
            yield Finding(
                'error', missing[0],
                f'{", ".join(group)} must be given together or all be None; '
                f'missing: {", ".join(missing)}.')


def _key_findings(tree: dict) -> Iterator[Finding]:
    """Top-level keys that nobody reads: misspelt, or no longer wired up."""
    known = set(signature(Runner.__init__).parameters) - {'self', 'cfg'}
    known |= _OTHER_KEYS | set(TOP_KEYS)
    used: Set[str] = set()
    for key in known & set(tree):
        _collect(tree[key], used)
    for key in tree:
        if key in known:
            continue
        near = get_close_matches(
            key, known - {'tta_pipeline'}, n=1, cutoff=0.9)
        values: Set[str] = set()
        _collect(tree[key], values)
        if near:
            yield Finding('warning', key,
                          f'unknown key. Did you mean {near[0]!r}?')
        elif not _is_used(tree[key], values, used):
            yield Finding(
                'warning', key,
                'nothing reads this key, and its value is used nowhere. A '
                'variable that was inherited has to be set again in every '
                'key that uses it.')


def unknown_options(cfg: dict,
                    keys: List[str]) -> Iterator[Tuple[str, Optional[str]]]:
    """Which options set a key that neither config nor runner knows.

    Args:
        cfg (Config): The config.
        keys (list[str]): Dotted keys whose first part was not in it.

    Yields:
        tuple: The unknown first part and the nearest known key, if any.
    """
    known = set(signature(Runner.__init__).parameters) | _OTHER_KEYS
    for key in keys:
        first = key.split('.')[0]
        if first not in known:
            names = (set(cfg) | known) - {first}
            near = get_close_matches(first, names, n=1, cutoff=0.75)
            yield first, near[0] if near else None


def merge_known_options(cfg: Config, options: Optional[dict]) -> None:
    """Merge ``--cfg-options`` of a tool, in place.

    Args:
        cfg (Config): The config.
        options (dict, optional): Dotted keys and values.

    Raises:
        UserError: If an option does not fit the config, or its key is
            nearly that of another. A key that resembles no other is logged.
    """
    for key, near in unknown_options(cfg, merge_options(cfg, options)):
        if near:
            raise UserError(f'--cfg-options: the config has no key {key!r}; '
                            f'did you mean {near!r}?')
        print_log(
            f'--cfg-options: the config has no key {key!r}',
            logger='current',
            level=logging.WARNING)


def check_options(config: str, options: Optional[dict]) -> None:
    """Refuse settings of a long comparison that would change nothing.

    Args:
        config (str): A config.
        options (dict, optional): Dotted keys and values.

    Raises:
        UserError: If neither the config nor the runner knows the first part
            of a key.
    """
    cfg = load_config(config)
    for key, near in unknown_options(cfg, merge_options(cfg, options)):
        hint = f' Did you mean {near}?' if near else ''
        raise UserError(f'{key} is not in {config}, so that it would change '
                        f'nothing.{hint}')


def _collect(node: Any, into: Set[str]) -> None:
    """The text of every value below ``node``, and of every dict and list."""
    into.add(repr(node))
    children = node.values() if isinstance(node, dict) else \
        node if isinstance(node, (list, tuple)) else ()
    for child in children:
        _collect(child, into)


def _is_used(node: Any, values: Set[str], used: Set[str]) -> bool:
    if repr(node) in used or node is None or isinstance(node, bool):
        return True
    if isinstance(node, str):  # a part of a longer path or name
        return any(node in value for value in used)
    if isinstance(node, (dict, list, tuple)):
        # a container that was taken apart, such as `_base_.x` or `x['y']`
        children = node.values() if isinstance(node, dict) else node
        return all(repr(child) in used for child in children)
    return False
