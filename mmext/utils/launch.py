# Copyright (c) mmext contributors. All rights reserved.
"""What ``tools/train.py`` and ``tools/test.py`` have in common."""
import argparse
import os
import os.path as osp
from copy import deepcopy
from typing import Any, List, Optional

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmext.compat import patch_cpu_distributed
from .config_check import merge_known_options
from .config_io import CfgOptions, load_config
from .config_paths import checkpoint_place, find_checkpoint
from .config_types import type_name
from .user_error import UserError

# The default hooks that mmengine itself can leave out; it asserts that no
# other key of default_hooks is None.
_MMENGINE_HOOKS = ('runtime_info', 'timer', 'sampler_seed', 'logger',
                   'param_scheduler', 'checkpoint')
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that both tools have, under the hosts' names."""
    parser.add_argument(
        '--work-dir',
        help='folder for logs and checkpoints. Default: work_dir of the '
        'config, else ./work_dirs/NAME_OF_CONFIG')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision; needs a GPU')
    parser.add_argument(
        '--no-pin-memory',
        action='store_true',
        help='switch pin_memory of the dataloaders off')
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='switch persistent_workers of the dataloaders off')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change settings of the config, after all other options. Lists '
        'are written key="[a,b]" or key=a,b and may be nested, '
        'key="[(a,b),(c,d)]", in quotes; a text keeps its spaces')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how the processes of a distributed job were started')
    # torch.distributed.launch passes --local-rank, its older form
    # --local_rank, and torchrun neither
    parser.add_argument(
        '--local_rank',
        '--local-rank',
        type=int,
        default=0,
        help='set by launchers; becomes LOCAL_RANK')


def parse(parser: argparse.ArgumentParser,
          argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line and export ``LOCAL_RANK``."""
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def set_work_dir(cfg: Config, args: argparse.Namespace) -> None:
    """Set ``work_dir``: the option, else the config's, else a default."""
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(cfg.filename))[0]
        cfg.work_dir = osp.join('./work_dirs', stem)


def set_loader_defaults(cfg: Config, args: argparse.Namespace) -> None:
    """Give the dataloaders of mmpretrain what its own ``train.py`` gives.

    mmseg and other hosts rely on mmengine's defaults, so their configs are
    left alone, except for the two ``--no-`` options.
    """
    for name in LOADERS:
        if cfg.get(name) is None:
            continue
        if cfg.get('default_scope') == 'mmpretrain':
            loader = ConfigDict(
                pin_memory=torch.cuda.is_available(),
                persistent_workers=True,
                collate_fn=dict(type='default_collate'))
            loader.update(cfg[name])
            cfg[name] = loader
        if args.no_pin_memory:
            cfg[name]['pin_memory'] = False
        if args.no_persistent_workers:
            cfg[name]['persistent_workers'] = False


def finish_config(cfg: Config, args: argparse.Namespace) -> None:
    """Merge ``--cfg-options``, the last word, and mend what must agree.

    ``persistent_workers`` and ``prefetch_factor`` are dropped where
    ``num_workers`` is 0, because torch refuses the combination. Without a
    GPU a distributed job uses gloo, and synchronised batch norms, which
    torch has for GPUs only, become plain ones. A default hook that is set to
    ``None`` is left out, and a test set gets its ``TestLoop``.

    Raises:
        UserError: If an option does not fit the config, or its key is
            nearly that of another.
    """
    merge_known_options(cfg, args.cfg_options)
    cfg.launcher = args.launcher
    if cfg.get('test_evaluator') and cfg.get('test_cfg') is None:
        cfg.test_cfg = dict(type='TestLoop')
    drop_removed_hooks(cfg)
    for name in LOADERS:
        loader = cfg.get(name)
        if isinstance(loader, dict) and not loader.get('num_workers', 0):
            loader['persistent_workers'] = False
            loader.pop('prefetch_factor', None)
    if not torch.cuda.is_available():
        patch_cpu_distributed()
        if args.launcher != 'none' and _replace_sync_bn(
                cfg.model) and get_device() == 'cpu':
            print_log(
                'No GPU: SyncBN of the model is replaced by BN, so each '
                'process normalises with its own statistics.',
                logger='current',
                level=30)


def drop_removed_hooks(cfg: Config) -> None:
    """Leave out the default hooks that are set to ``None``."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name in hooks if hooks[name] is None]:
        if name not in _MMENGINE_HOOKS:
            hooks.pop(name)


def _replace_sync_bn(node: Any) -> int:
    """Replace synchronised batch norms below ``node``; return how many."""
    if isinstance(node, (list, tuple)):
        return sum(_replace_sync_bn(item) for item in node)
    if not isinstance(node, dict):
        return 0
    count = 0
    if type_name(node.get('type')) in ('SyncBN', 'MMSyncBN', 'SyncBatchNorm'):
        node['type'] = 'BN'
        count = 1
    return count + sum(_replace_sync_bn(value) for value in node.values())


def require_gpu(option: str) -> None:
    """Raise :class:`UserError` if ``option`` cannot work on this machine."""
    if get_device() in ('cpu', 'mps'):
        raise UserError(
            f'{option} needs a GPU, and torch sees none on this machine '
            f'(device: {get_device()}). Leave the option away to run in full '
            'precision.')


def enable_amp(cfg: Config) -> None:
    """Make the optimizer wrapper use mixed precision."""
    require_gpu('--amp')
    if cfg.get('optim_wrapper') is None:
        raise UserError('--amp changes optim_wrapper, and the config has '
                        'none.')
    given = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if type_name(given) not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise UserError(f'--amp replaces OptimWrapper, but the config uses '
                        f'{given!r}. Set mixed precision there.')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_resume(cfg: Config, resume: Optional[str]) -> None:
    """Decide which checkpoint a run goes on from, if any.

    ``auto`` takes the newest readable checkpoint of ``cfg.work_dir``; when
    there is none, the run starts from ``cfg.load_from`` as without the
    option.

    Args:
        cfg (Config): Gets ``resume`` and ``load_from``.
        resume (str, optional): ``'auto'``, the path of a checkpoint, or a
            folder to search. ``None`` keeps what the config says.

    Raises:
        UserError: If the given file or folder has no checkpoint, or one
            that a run cannot go on from.
    """
    if resume is None:
        if cfg.get('resume') and cfg.get('load_from'):
            _check_resumable(cfg.load_from)
        if not cfg.get('resume') or cfg.get('load_from'):
            return
        resume = 'auto'
    folder = cfg.work_dir if resume == 'auto' else resume
    if resume == 'auto' or osp.isdir(folder):
        from .resume import find_resumable
        found = find_resumable(folder) if osp.isdir(folder) else None
        if found is None and resume != 'auto':
            raise UserError(f'--resume {resume}: the folder '
                            f'{osp.abspath(folder)} holds no checkpoint that '
                            'can be read.')
    else:
        found = find_checkpoint(resume)
        if found is None:
            raise UserError(
                f'--resume {resume}: there is no such checkpoint. Looked '
                f'for {checkpoint_place(resume)}. Leave the path away to '
                f'take the newest checkpoint of {cfg.work_dir}.')
        _check_resumable(found)
    cfg.resume = found is not None
    if found is None:
        start = cfg.get('load_from')
        print_log(
            f'Nothing to resume in {osp.abspath(folder)}: the run starts ' +
            (f'from {start}.' if start else 'from the beginning.'),
            logger='current')
    else:
        cfg.load_from = str(found)


def _check_resumable(path: str) -> None:
    """Refuse a file that holds weights only, or no run at all."""
    from .resume import why_not
    reason = why_not(path) if osp.isfile(path) else None
    if reason is not None:
        raise UserError(
            f'A run cannot go on from {path}: {reason}. Give a checkpoint '
            'that a training wrote, or start from its weights with '
            f'--cfg-options load_from={path}, without --resume.')


def set_pipeline(dataset: Any, pipeline: list) -> int:
    """Replace the pipeline of a dataset and of all that it wraps.

    Returns:
        int: How many pipelines were replaced.
    """
    if isinstance(dataset, (list, tuple)):
        return sum(set_pipeline(item, pipeline) for item in dataset)
    if not isinstance(dataset, dict):
        return 0
    count = 0
    if 'pipeline' in dataset:
        dataset['pipeline'] = deepcopy(pipeline)
        count = 1
    return count + sum(
        set_pipeline(value, pipeline)
        for key, value in dataset.items() if key != 'pipeline')


def is_tuned(model: Any) -> bool:
    """Whether the config of a model is a ``MoSAModel``, or wraps one."""
    while isinstance(model, dict):
        if type_name(model.get('type')) == 'MoSAModel':
            return True
        model = model.get('module')
    return False


def is_depth(model: Any) -> bool:
    """Whether the config of a model is a ``BiCrossDepthEstimator``."""
    return type_name(model.get('type')) == 'BiCrossDepthEstimator'


def predicts_depth(model: Any) -> bool:
    """Whether the config of a model is of an estimator of depth, mmseg's
    too, or of a stage of BiCross."""
    name = type_name(model.get('type'))
    return name in ('BiCrossDepthEstimator', 'DepthEstimator',
                    'CrossModalityDistiller', 'CrossDomainAdapter')


def is_certified(model: Any) -> bool:
    """Whether the config of a model is of a classifier that can certify, or
    wraps one."""
    while isinstance(model, dict):
        if type_name(model.get('type')) in ('LipschitzClassifier',
                                            'CertifiedEnsemble'):
            return True
        model = model.get('module')
    return False


def brings_weights(model: Any) -> bool:
    """Whether a config is of an ensemble that names all its checkpoints."""
    # That a member is an ensemble itself is for the model to say.
    return _is_ensemble(model) and all(
        member.get('checkpoint') or _is_ensemble(_model_of(member))
        for member in model['members'])


def _is_ensemble(model: Any) -> bool:
    kind = model.get('type') if isinstance(model, dict) else None
    return type_name(kind) == 'CertifiedEnsemble'


def _model_of(member: dict) -> Any:
    if 'config' in member:
        return load_config(member['config']).get('model')
    return member.get('model')


def build_runner(cfg: Config) -> Runner:
    """Build the runner: ``runner_type`` of the config, else ``Runner``."""
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    return Runner.from_cfg(cfg)
