# Copyright (c) mmext contributors. All rights reserved.
"""What a model and an adaptation loop refuse once they see their data."""
import inspect
from itertools import product
from typing import Any, Callable, Iterator, List, Optional, Tuple

from torch import nn

from .config_paths import build_wrapped, dataset_class, dataset_leaves
from .config_signature import is_foreign
from .config_types import resolve, type_name, typed_dicts

Finding = Tuple[str, str, str]


def adaptation_findings(cfg: dict, model: Optional[nn.Module], method: Any,
                        attempt: Callable) -> Iterator[Finding]:
    """Checks of ``mmext.TestTimeAdaptLoop`` that need no data.

    Args:
        cfg (dict): A config whose train loop is a ``TestTimeAdaptLoop``.
        model (nn.Module, optional): Its model, if that builds.
        method (BaseAdaptation, optional): Its method, if that builds.
        attempt (Callable): Called with a path and a function; reports what
            the function raises.

    Yields:
        tuple: Level, path and message of what the loop would refuse.
    """
    from mmext.engine.loops.precision import float16_problem
    from mmext.engine.loops.stream_loader import (check_arguments,
                                                  check_classes,
                                                  stream_dataloader)
    loop, loader = cfg['train_cfg'], cfg.get('train_dataloader')
    attempt(
        'train_cfg', lambda: check_arguments(
            loop.get('method'), loop.get('reset', 'never'), loop.get('autocast'
                                                                     )))
    wrapper = type_name((cfg.get('optim_wrapper')
                         or {}).get('type', 'OptimWrapper'))
    # A wrapper of the user may scale; --amp makes one that does.
    problem = float16_problem(
        loop.get('autocast'), getattr(method, 'adapt', 'none'), wrapper,
        wrapper not in ('OptimWrapper', 'CPUAmpOptimWrapper'))
    if problem:
        yield 'warning', 'train_cfg.autocast', problem
    if not (cfg.get('load_from') or cfg.get('resume')
            or loop.get('allow_random_source')):
        # tools/test.py --adapt takes it from the command line
        yield ('warning', 'load_from',
               'adaptation starts from a trained source model. Set it to the '
               'checkpoint of `model`, or give that to tools/test.py --adapt.')
    yield from _hook_findings(cfg, getattr(method, 'needs_teacher', False))
    task = getattr(method, 'task', None)
    if model is not None and hasattr(task, 'check'):
        attempt('train_cfg.method', lambda: task.check(model))
    if not isinstance(loader, dict):
        return
    loader = attempt('train_dataloader', lambda: stream_dataloader(loader))
    if loader is None:
        return
    classes = dataset_classes(loader['dataset'])
    attempt('model', lambda: check_classes(head_classes(cfg, model), classes))
    if hasattr(method, 'reference_view'):
        for path, leaf in dataset_leaves(
                cfg['train_dataloader'].get('dataset'),
                'train_dataloader.dataset'):
            problem = view_problem(leaf.get('pipeline'), method.reference_view)
            if problem:
                yield 'error', 'train_cfg.method', f'{problem} ({path}).'
                return  # the other domains mostly share the pipeline


def _hook_findings(cfg: dict, has_teacher: bool) -> Iterator[Finding]:
    """Hooks that the loop refuses, and those that have nothing to do."""
    from mmext.engine.hooks import MeanTeacherHook
    from mmext.engine.loops.idle_hooks import (NO_VALIDATION,
                                               waits_for_validation)
    hooks = {
        k: cfg[k]
        for k in ('default_hooks', 'custom_hooks') if cfg.get(k)
    }
    for item in typed_dicts(hooks):
        kind, _ = resolve(item)
        idle = waits_for_validation(kind, item.node.get('save_best'))
        if idle:
            yield 'warning', item.path, f'{idle}: {NO_VALIDATION}'
        if has_teacher and inspect.isclass(kind) and \
                issubclass(kind, MeanTeacherHook):
            yield ('error', item.path,
                   'the loop brings a MeanTeacherHook of its own. Leave this '
                   'one out.')


def class_findings(cfg: dict, model: nn.Module) -> Iterator[Finding]:
    """A head with fewer classes than the data sets have labels.

    Args:
        cfg (dict): A parsed config.
        model (nn.Module): Its model.

    Yields:
        tuple: An error where it would train on labels beyond its outputs.
    """
    given = head_classes(cfg, model)
    if not given or given < 2:  # one output tells two classes apart
        return
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        dataset = loader.get('dataset') if isinstance(loader, dict) else None
        classes = dataset_classes(dataset)
        if classes and given < len(classes):
            sure = split == 'train' and not is_foreign(type(model)) and \
                not any(is_foreign(dataset_class(leaf))
                        for _, leaf in dataset_leaves(dataset, ''))
            more = ', ...' * (len(classes) > 20)
            yield ('error' if sure else 'warning', 'model',
                   f'the head has {given} classes, but {split}_dataloader '
                   f'has {len(classes)}: '
                   f'{", ".join(map(str, classes[:20]))}{more}.')
            return


def dataset_classes(dataset: Any) -> Optional[List[str]]:
    """Names of the classes of a data set config, if it tells them unread."""
    try:
        built = build_wrapped(dataset)
        classes = getattr(built, 'metainfo', {}).get('classes')
    except Exception:  # reported where the data sets are built
        return None
    return list(classes) if isinstance(classes, (list, tuple)) else None


def head_classes(cfg: dict, model: Optional[nn.Module]) -> Optional[int]:
    """``num_classes`` of the last head, also inside a wrapper.

    The config comes first, for the model may be that of another config with
    another number of classes.
    """
    node = cfg['model']
    if isinstance(node.get('module'), dict):
        node, model = node['module'], getattr(model, 'module', None)
    for name in ('decode_head', 'head'):
        head = node.get(name)
        built = getattr(model, name, None)
        if isinstance(head, (list, tuple)):
            head = head[-1] if head else None
        if isinstance(built, nn.ModuleList):
            built = built[-1]
        if isinstance(head, dict):
            number = head.get('num_classes', getattr(built, 'num_classes',
                                                     None))
            if type(number) is int:
                return number
    return None


# Views of the test-time augmentation -----------------------------------------


def view_problem(pipeline: Any, reference: Optional[int]) -> Optional[str]:
    """Why ``reference_view`` does not say an unmirrored view.

    Args:
        pipeline (list[dict]): Of one domain.
        reference (int, optional): The configured index; None means the only
            unmirrored view.

    Returns:
        str, optional: A sentence without its end. ``None`` also if a
        transform of the user may yield other views than the config shows.
    """
    views = _views(pipeline)
    if views is None:
        return None
    plain = [i for i, mirrored in enumerate(views) if not mirrored]
    if reference is None:
        if len(plain) == 1 or None in views:
            return None
        return f'the pipeline yields {len(plain)} unmirrored views, so ' \
            'reference_view must say which one is the reference'
    if reference in range(len(views)) and not views[reference]:
        return None
    return f'reference_view={reference} must be an unmirrored view of the ' \
        f'pipeline, whose {len(views)} views are {_listing(views)}'


def _listing(views: List[Optional[bool]]) -> str:
    return ', '.join(f'{i}{" mirrored" * bool(view)}'
                     for i, view in enumerate(views))


def _views(pipeline: Any) -> Optional[List[Optional[bool]]]:
    """Whether each view is mirrored; None where that is drawn."""
    if not isinstance(pipeline, (list, tuple)) or not _all_known(pipeline):
        return None
    many = [
        step for step in pipeline if type_name(step['type']) == 'TestTimeAug'
    ]
    outside = [_mirrored(step) for step in pipeline if step not in many]
    if len(many) > 1 or any(one is not False for one in outside):
        return None
    if not many:
        return [False]
    choices = many[0].get('transforms')
    if not all(
            isinstance(c, (list, tuple)) and _all_known(c) for c in choices):
        return None
    views = []
    for view in product(*choices):
        states = [_mirrored(step) for step in view]
        unclear = None in states or sum(states) > 1
        views.append(None if unclear else any(states))
    return views


def _all_known(steps: Any) -> bool:
    """All are transforms of the toolboxes, which yield one view each."""
    for step in steps:
        if not isinstance(step, dict) or 'type' not in step:
            return False
        found, _ = resolve(next(typed_dicts(dict(tta_pipeline=step))))
        if found is None or is_foreign(found):
            return False
    return True


def _mirrored(step: dict) -> Optional[bool]:
    """Whether a transform mirrors; None if that is drawn or not known."""
    name = type_name(step['type'])
    if name == 'RandomFlip':
        return {
            0: False,
            1: True
        }.get(step.get('prob')) if isinstance(step.get('prob'),
                                              (int, float)) else None
    if 'Flip' in name or name.startswith('Random') and 'Resize' not in name:
        return None
    nested = [key for key in ('transforms', 'policies') if step.get(key)]
    return None if nested and name != 'TestTimeAug' else False
