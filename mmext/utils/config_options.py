# Copyright (c) mmext contributors. All rights reserved.
"""Options that the runner hands to others: loaders, schedulers, hooks."""
import copy
from difflib import get_close_matches
from inspect import signature
from typing import Any, Callable, Iterable, Iterator, Optional, Set, Tuple

import torch
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATA_SAMPLERS, HOOKS, PARAM_SCHEDULERS
from mmengine.runner import Runner, get_priority
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from .config_signature import is_foreign
from .config_types import resolve, typed_dicts

Finding = Tuple[str, str, str]

# Keys of a loader that `Runner.build_dataloader` takes out or builds.
_LOADER_KEYS = {
    'dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn',
    'num_batch_per_epoch', 'disable_subprocess_warning'
}
# Samplers that want no more of their data set than its length.
_LENGTH_SAMPLERS = ('DefaultSampler', 'InfiniteSampler', 'StreamSampler')


def unknown(path: str, given: Iterable, known: Set[str], owner: str,
            level: str) -> Iterator[Finding]:
    """One finding for each key that ``owner`` does not take."""
    for key in sorted(set(map(str, given)) - known - {'_scope_', '_delete_'}):
        near = get_close_matches(key, known, n=1)
        hint = f' Did you mean {near[0]!r}?' if near else \
            f' It accepts: {", ".join(sorted(known))}.'
        yield level, path, f'{owner} has no argument {key!r}.{hint}'


def _own_level(cfg: dict) -> str:
    """A runner of the user may take more than the stock one."""
    return 'warning' if cfg.get('runner_type') else 'error'


def randomness_findings(cfg: dict) -> Iterator[Finding]:
    """Keys of ``randomness`` that the runner does not take."""
    given = cfg.get('randomness')
    if isinstance(given, dict):
        known = set(signature(Runner.set_randomness).parameters) - {'self'}
        level = _own_level(cfg)
        yield from unknown('randomness', given, known, 'set_randomness', level)
        if 'seed' not in given:
            yield level, 'randomness', "set_randomness needs 'seed'."


# Loaders ---------------------------------------------------------------------


def loader_findings(cfg: dict, name: str,
                    attempt: Callable) -> Iterator[Finding]:
    """Keys and values that ``DataLoader`` refuses.

    Args:
        cfg (dict): A parsed config.
        name (str): ``'train_dataloader'`` or another one.
        attempt (Callable): Called with a path and a function; reports what
            the function raises.

    Yields:
        tuple: Level, path and message for each unknown key.
    """
    loader = cfg[name]
    loop = cfg.get(name.replace('dataloader', 'cfg')) or {}
    level = _own_level(cfg)
    if loop.get('type'):  # a loop of the user may build its loader itself
        found, _ = resolve(next(typed_dicts(dict(train_cfg=loop))))
        level = 'warning' if is_foreign(found) else level
    known = set(signature(DataLoader).parameters) | _LOADER_KEYS
    findings = list(unknown(name, loader, known, 'DataLoader', level))
    yield from findings
    if findings or level == 'warning':
        return
    attempt(name, lambda: _empty_loader(loader))
    sampler = loader.get('sampler')
    if isinstance(sampler, dict) and sampler.get('type'):
        found, _ = resolve(
            next(
                typed_dicts(
                    dict(train_dataloader=dict(sampler=dict(sampler))))))
        if getattr(found, '__name__', '') in _LENGTH_SAMPLERS:
            attempt(
                f'{name}.sampler', lambda: DATA_SAMPLERS.build(
                    copy.deepcopy(sampler),
                    default_args=dict(dataset=range(8), seed=0)))


def _empty_loader(loader: dict) -> DataLoader:
    """The loader as the runner makes it, of other data."""
    options = {k: v for k, v in loader.items() if k not in _LOADER_KEYS}
    options.pop('_scope_', None)
    if options.get('num_workers', 0) == 0:
        # The tools drop what torch refuses without workers.
        for key in ('persistent_workers', 'prefetch_factor'):
            options.pop(key, None)
    data = range(8)
    sampler = SequentialSampler(data) if loader.get('sampler') else None
    if loader.get('batch_sampler'):
        options.pop('batch_size', None)
        return DataLoader(
            data,
            batch_sampler=BatchSampler(SequentialSampler(data), 1, False),
            **options)
    return DataLoader(data, sampler=sampler, **options)


# Optimizer and schedulers ----------------------------------------------------


def optim_findings(cfg: dict, wrapper: Any, attempt: Callable) -> None:
    """Call what clips gradients, and build the schedulers.

    Args:
        cfg (dict): A parsed config.
        wrapper (OptimWrapper or OptimWrapperDict): Built from it.
        attempt (Callable): As for :func:`loader_findings`.
    """
    wrappers = wrapper.optim_wrappers if isinstance(wrapper,
                                                    OptimWrapperDict) else {
                                                        '': wrapper
                                                    }
    schedulers = cfg.get('param_scheduler')
    for name, part in wrappers.items():
        if not isinstance(part, OptimWrapper):
            continue
        if part.clip_grad_kwargs and \
                type(part)._clip_grad is OptimWrapper._clip_grad:
            attempt('optim_wrapper.clip_grad', lambda: _clip(part))
        own = schedulers
        if len(wrappers) > 1 and isinstance(own, dict) and 'type' not in own:
            own = own.get(name)
        many = own if isinstance(own, (list, tuple)) else [own]
        for i, one in enumerate(many):
            if isinstance(one, dict) and one.get('type'):
                place = f'[{i}]' if own is not one else ''
                attempt(f'param_scheduler{place}',
                        lambda: _scheduler(cfg, one, part))


def _clip(wrapper: OptimWrapper) -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    wrapper.clip_func([parameter], **wrapper.clip_grad_kwargs)


def _scheduler(cfg: dict, node: dict, wrapper: OptimWrapper) -> Any:
    node = copy.deepcopy(node)
    loop = cfg.get('train_cfg') or {}
    key = 'max_epochs' if node.get('by_epoch', True) else 'max_iters'
    if loop.get('type') in (None, 'EpochBasedTrainLoop',
                            'IterBasedTrainLoop') and \
            isinstance(loop.get(key), int):
        node.setdefault('end', loop[key])  # as the runner does
    return PARAM_SCHEDULERS.build(
        node, default_args=dict(optimizer=wrapper, epoch_length=100))


# Hooks -----------------------------------------------------------------------


def build_hook(cfg: dict, path: str, node: Any,
               attempt: Callable) -> Iterator[Finding]:
    """Build a hook and look at what it keeps for later.

    Args:
        cfg (dict): A parsed config.
        path (str): Where the hook stands.
        node (dict): Its config.
        attempt (Callable): As for :func:`loader_findings`.

    Yields:
        tuple: Level, path and message of what would fail in the run.
    """
    if not isinstance(node, dict):
        return
    node = copy.deepcopy(node)
    priority = node.pop('priority', None)  # the runner takes it out
    hook = attempt(path, lambda: HOOKS.build(node))
    if hook is None:
        return
    problem = _priority_problem(hook.priority if priority is
                                None else priority)
    if problem:
        yield 'error', path, problem
    if isinstance(hook, CheckpointHook) and getattr(hook, 'args', None):
        known = set(signature(Runner.save_checkpoint).parameters) - {'self'}
        known |= set(signature(CheckpointHook.__init__).parameters)
        level = 'warning' if is_foreign(type(hook)) else _own_level(cfg)
        yield from unknown(path, hook.args, known - {'self', 'kwargs'},
                           type(hook).__name__, level)
    if type(hook).__name__ == 'PNormScheduleHook':
        yield from _p_norm(cfg, path, hook)


def _priority_problem(priority: Any) -> Optional[str]:
    try:
        get_priority(priority)
    except (KeyError, TypeError, ValueError):
        return 'expected a priority from 0 to 100 or a name such as ' \
            f"'NORMAL' or 'VERY_LOW', but got {priority!r}."
    return None


def _p_norm(cfg: dict, path: str, hook: Any) -> Iterator[Finding]:
    length = (cfg.get('train_cfg') or {}).get('max_epochs')
    end, total = hook.epochs[3:5]
    if total != 1 and isinstance(length, int) and length < end:
        yield ('warning', path,
               f'the run ends after {length} epochs (train_cfg.max_epochs), '
               f'but p becomes infinite after {end:g}: its result can be '
               'trained on, not certified. Shorten `epochs` with the run.')
