# Copyright (c) mmext contributors. All rights reserved.
"""Build the parts of a config as far as that needs neither data nor GPU."""
import copy
import re
import warnings
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (EVALUATOR, METRICS, MODELS, TASK_UTILS,
                               TRANSFORMS, VISUALIZERS)
from mmengine.visualization import Visualizer
from torch import nn

from .config_adapt import adaptation_findings, class_findings
from .config_options import (build_hook, loader_findings, optim_findings,
                             randomness_findings)
from .config_paths import (build_lazy, build_wrapped, dataset_leaves,
                           is_pretrained, is_weights_file, missing_data)
from .config_types import config_scope, is_adaptation, type_name

#: Models with at most so many parameters are also built with storage.
SMALL = 8_000_000

# Built models, newest last, so that the configs of one model build it once:
# the config as text, without the number of classes -> model.
_BUILT: Dict[str, nn.Module] = {}
_KEPT = 8
_NAME = 'mmext_config_check'


@contextmanager
def meta_parameters() -> Iterator[None]:
    """Give new parameters no storage (device ``meta``), buffers theirs.

    ``torch.device('meta')`` would also catch the small tensors that many
    backbones compute with in ``__init__`` (a ``linspace`` of drop rates and
    its ``.item()``), so only parameters are moved.
    """
    original = nn.Module.register_parameter
    initialise = BaseModule.init_weights

    def register(module: nn.Module, name: str, param: Any) -> None:
        if param is not None and param.device.type != 'meta':
            param = nn.Parameter(param.detach().to('meta'),
                                 param.requires_grad)
        original(module, name, param)

    nn.Module.register_parameter = register
    # wrappers initialise their host when they are built; there is nothing to
    # initialise, and mmengine's note of the mean values would fail
    BaseModule.init_weights = lambda module: None
    try:
        yield
    finally:
        nn.Module.register_parameter = original
        BaseModule.init_weights = initialise


def build_model(cfg: dict) -> nn.Module:
    """Build ``cfg['model']`` with parameters on the meta device.

    Args:
        cfg (dict): A whole config; its default scope is entered.

    Returns:
        nn.Module: A model that can be inspected but not run. One that reads
        its parameters in ``__init__`` is built with storage.
    """
    with config_scope(cfg):
        try:
            with meta_parameters():
                return MODELS.build(model_config(cfg))
        except Exception as error:
            if 'meta' not in str(error).lower():
                raise
        return MODELS.build(model_config(cfg))


def model_config(cfg: dict, pretrained: bool = False) -> dict:
    """A copy of the model's config as the runner builds it.

    Args:
        cfg (dict): A config; a data preprocessor at its top moves into the
            model.
        pretrained (bool): Keep the checkpoints that it starts from.
            Defaults to False.

    Returns:
        dict: What a registry takes.
    """
    model = copy.deepcopy(cfg['model'])
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor',
                         copy.deepcopy(cfg['data_preprocessor']))
    if not pretrained:
        drop_pretrained(model)
    return model


def drop_pretrained(node: Any) -> None:
    """Take checkpoints out: a wrapper would load them when it is built.

    `path_findings` reports those that are missing.
    """
    children = node.values() if isinstance(node, dict) else \
        node if isinstance(node, (list, tuple)) else ()
    for child in list(children):
        drop_pretrained(child)
    if isinstance(node, dict):
        init_cfg = node.get('init_cfg')
        if isinstance(init_cfg, dict) and is_pretrained(init_cfg):
            node['init_cfg'] = None
        elif isinstance(init_cfg, list):
            node['init_cfg'] = [c for c in init_cfg if not is_pretrained(c)]
        if is_weights_file(node.get('pretrained')):
            node['pretrained'] = None


def build_findings(cfg: dict) -> List[Tuple[str, str, str]]:
    """Build everything that can be built and collect the failures.

    Call it inside :func:`config_scope`.

    Args:
        cfg (dict): A parsed config whose types all resolve.

    Returns:
        list[tuple]: Level, path and message of each failure.
    """
    findings: List[Tuple[str, str, str]] = []

    def attempt(path: str, build: Callable[[], Any]) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                return build()
        except FileNotFoundError:
            return None  # a missing path: reported by path_findings
        except Exception as error:
            findings.append(
                ('error', path, f'does not build: {type(error).__name__}: '
                 f'{str(error).strip() or repr(error)}'))
            return None

    key = re.sub(r"'num_classes': \d+", '', str(cfg['model']))
    if key not in _BUILT:
        model = attempt('model', lambda: build_model(cfg))
        if model is not None:
            params = list(model.parameters())
            if any(p.is_meta for p in params) and \
                    sum(p.numel() for p in params) <= SMALL:
                attempt('model', lambda: MODELS.build(model_config(cfg)))
            _BUILT[key] = model
            for old in list(_BUILT)[:-_KEPT]:
                del _BUILT[old]
    if cfg.get('optim_wrapper') and key in _BUILT:
        wrapper = attempt('optim_wrapper',
                          lambda: _build_optim_wrapper(_BUILT[key], cfg))
        if wrapper is not None:
            optim_findings(cfg, wrapper, attempt)
    findings += randomness_findings(cfg)
    findings += _lone_modules(cfg, _BUILT.get(key))
    findings += _lone_losses(cfg, _BUILT.get(key))
    _check_data(cfg, _BUILT.get(key), attempt, findings)
    findings += _build_hooks(cfg, attempt)
    _build_data(cfg, attempt, findings)
    return findings


def _lone_modules(cfg: dict, model: Optional[nn.Module]) -> Iterator[Tuple]:
    """A mixture of adapters needs its hook to be repeatable."""
    layers = getattr(model, 'split_layers', dict)()
    hooks = [type_name(h.get('type')) for h in cfg.get('custom_hooks') or []]
    if cfg.get('train_cfg') and 'MoSAHook' not in hooks and any(
            layer.num_modules > 1 for layer in layers.values()):
        yield ('warning', 'custom_hooks',
               "there is no dict(type='mmext.MoSAHook'): a resumed run draws "
               "other modules than the one that was stopped, inactive='skip' "
               'is refused and nothing is logged of the modules')


def _lone_losses(cfg: dict, model: Optional[nn.Module]) -> Iterator[Tuple]:
    """Losses that teach nothing without a weight of their cross-entropy."""
    heads = [
        m for m in (model.modules() if model is not None else ())
        if getattr(m, 'needs_lam', False) and hasattr(m, 'lam')
    ]
    hooks = [
        hook for hook in (*(cfg.get('default_hooks') or {}).values(),
                          *(cfg.get('custom_hooks') or []))
        if hook and type_name(hook.get('type')) == 'PNormScheduleHook'
    ]
    # What a run begins with: the hook's, if it has one, rules the heads'.
    pairs = [hook.get('lam') for hook in hooks]
    given = [p[0] for p in pairs if p and isinstance(p, (list, tuple))]
    begin = given or [head.lam for head in heads]
    if cfg.get('train_cfg') and heads and not all(begin):
        # The hook refuses to start; without it, or with weights, heads warn.
        fresh = not cfg.get('load_from') and not cfg.get('resume')
        yield ('error' if hooks and fresh else 'warning', 'model.head.lam',
               'is 0 when the run begins (the first lam of PNormScheduleHook, '
               'if it has one): the loss leaves wrong images to the '
               'cross-entropy of that weight, and a fresh network stays at '
               'chance. Set lam=0.05 of the head, or lam=(0.05, 2e-4) of '
               'mmext.PNormScheduleHook')


def _check_data(cfg: dict, model: Optional[nn.Module], attempt: Callable,
                findings: list) -> None:
    """What the train loop and the heads want of their data."""
    if not is_adaptation(cfg):
        if model is not None:
            findings += list(class_findings(cfg, model))
        return
    loop = cfg['train_cfg']
    method = loop.get('method')
    if isinstance(method, dict) and method.get('type'):
        method = attempt('train_cfg.method',
                         lambda: _build(TASK_UTILS, method))
    _build_evaluator(loop.get('evaluator'), 'train_cfg.evaluator', attempt)
    findings += list(adaptation_findings(cfg, model, method, attempt))


def _build_optim_wrapper(model: nn.Module, cfg: dict) -> Any:
    wrapper = copy.deepcopy(cfg['optim_wrapper'])
    if str(wrapper.get('type', '')).endswith('AmpOptimWrapper'):
        # it refuses to be built without a GPU
        for key in ('type', 'loss_scale', 'dtype', 'use_fsdp'):
            wrapper.pop(key, None)
    return build_optim_wrapper(model, wrapper)


def _build_hooks(cfg: dict, attempt: Callable) -> List[Tuple]:
    findings: List[Tuple] = []
    visualizer = copy.deepcopy(
        cfg.get('visualizer')) or dict(type='Visualizer')
    visualizer.update(name=_NAME, vis_backends=None)
    instance = attempt('visualizer', lambda: VISUALIZERS.build(visualizer))
    owner = type(instance)
    if instance is not None:  # hooks ask the base class for the newest one
        Visualizer._instance_dict[_NAME] = instance
    for key, hook in (cfg.get('default_hooks') or {}).items():
        if hook is not None:
            findings += list(
                build_hook(cfg, f'default_hooks.{key}', hook, attempt))
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        findings += list(build_hook(cfg, f'custom_hooks[{i}]', hook, attempt))
    for holder in {owner, Visualizer}:
        getattr(holder, '_instance_dict', {}).pop(_NAME, None)
    return findings


def _build_data(cfg: dict, attempt: Callable, findings: list) -> None:
    for split in ('train', 'val', 'test'):
        name = f'{split}_dataloader'
        loader = cfg.get(name)
        if isinstance(loader, dict):
            findings += list(loader_findings(cfg, name, attempt))
            _build_dataset(
                loader.get('dataset'), f'{name}.dataset', attempt, findings)
        _build_evaluator(
            cfg.get(f'{split}_evaluator'), f'{split}_evaluator', attempt)
    if cfg.get('tta_pipeline'):
        for i, step in enumerate(cfg['tta_pipeline']):
            attempt(f'tta_pipeline[{i}]', lambda: _build(TRANSFORMS, step))


def _build_dataset(dataset: Any, path: str, attempt: Callable,
                   findings: list) -> None:
    """Build the innermost data sets, and if they build, their wrappers."""
    before = len(findings)
    refused = False
    leaves = list(dataset_leaves(dataset, path))
    for place, leaf in leaves:
        if _refuses_missing(leaf):
            refused = True
        else:
            attempt(place, lambda: build_lazy(leaf))
    wrapped = [place for place, _ in leaves] != [path]
    if wrapped and not refused and len(findings) == before:
        attempt(path, lambda: build_wrapped(dataset))


def _build_evaluator(evaluator: Any, path: str, attempt: Callable) -> None:
    """As the runner does: a dict with ``metrics`` is no metric."""
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator = dict(dict(type='Evaluator'), **evaluator)
        attempt(path, lambda: _build(EVALUATOR, evaluator))
        return
    many = evaluator if isinstance(evaluator, (list, tuple)) else [evaluator]
    for i, metric in enumerate(many):
        if isinstance(metric, dict) and metric.get('type'):
            attempt(f'{path}[{i}]', lambda: _build(METRICS, metric))


def _refuses_missing(leaf: dict) -> bool:
    """Some classes assert that their folder exists when they are built."""
    try:
        build_lazy(leaf)
    except AssertionError:
        return bool(missing_data(None, leaf))
    except Exception:
        pass  # `attempt` reports it
    return False


def _build(registry: Any, node: Any) -> Any:
    return registry.build(copy.deepcopy(node))
