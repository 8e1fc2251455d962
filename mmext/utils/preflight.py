# Copyright (c) mmext contributors. All rights reserved.
"""Find what a run would stumble over, before any work is done.

``tools/train.py`` and ``tools/test.py`` call :func:`preflight` between
reading the config and building the runner. A missing data folder, a missing
checkpoint, a part whose host toolbox is not installed or a misspelt
``mmext.X`` ends the command with one message and exit code 2.
"""
import os
import os.path as osp
import re
import tempfile
from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence

from mmengine.config import Config

from .config_check import Finding, group_findings, type_findings
from .config_io import read_model_index
from .config_options import loader_findings
from .config_paths import (build_lazy, checkpoint_place, checkpoints,
                           dataset_leaves, find_checkpoint, is_remote,
                           missing_data)
from .config_types import config_scope, resolve, type_name, typed_dicts
from .dependency import has, missing_message
from .launch import predicts_depth
from .user_error import UserError

# What the wrappers of BiCross start from.
_STAGE_BEFORE = dict(
    CrossModalityDistiller='stage 1', CrossDomainAdapter='stage 2')
_PARTS = dict(train=('train', 'val'), test=('test', ), adapt=('train', 'val'))
# What only training builds, and which parts of a host are checked before a
# run: those whose own message names no place in the config.
_TRAINING = ('train_', 'val_', 'optim_wrapper', 'param_scheduler')
_CHECKED = ('LOOPS', 'OPTIM_WRAPPERS', 'OPTIMIZERS', 'HOOKS',
            'PARAM_SCHEDULERS')


def preflight(cfg: Config,
              command: str,
              checkpoint: Optional[str] = None,
              folders: Optional[Dict[str, Optional[str]]] = None,
              files: Optional[Dict[str, Optional[str]]] = None) -> None:
    """Check hosts, types, data and checkpoint of a run; change only paths.

    Args:
        cfg (Config): The config with all options merged. A relative
            ``load_from``, or checkpoint in the model, that exists only beside
            the installed package is replaced by its full path.
        command (str): ``'train'``, ``'test'`` or ``'adapt'``: which
            dataloaders will be used.
        checkpoint (str, optional): Checkpoint given on the command line.
            Defaults to ``cfg.load_from``.
        folders (dict, optional): Option -> folder that the run will write
            to; it is made. Defaults to None, none.
        files (dict, optional): Option -> file that the run will write; its
            folder is made. Defaults to None, none.

    Raises:
        UserError: On the first group of problems: the host, then the
            structure, then types, then missing checkpoints and data, then
            places that cannot be written to.
    """
    check_host(cfg)
    problems = [f'{f.path}: {f.message}' for f in group_findings(cfg)]
    if problems:
        raise UserError('The config is incomplete:\n  ' +
                        '\n  '.join(problems))
    missing = []
    with config_scope(cfg):
        check_types(cfg, command)
        try:
            check_data(cfg, [f'{part}_dataloader' for part in _PARTS[command]])
        except UserError as error:
            missing.append(str(error))
    try:
        check_checkpoint(cfg, checkpoint, offer_alternative=not missing)
    except UserError as error:
        missing.insert(0, str(error))
    if command != 'test':  # testing does not initialise weights
        missing += missing_pretrained(cfg)
    if missing:
        raise UserError('\n'.join(missing))
    check_outputs(folders, files)


def check_outputs(folders: Optional[Dict[str, Optional[str]]] = None,
                  files: Optional[Dict[str, Optional[str]]] = None) -> None:
    """Make the folders that a run writes to, and try to write there.

    Args:
        folders (dict, optional): Option -> folder, or ``None`` if it is not
            given. Defaults to None, none.
        files (dict, optional): Option -> file, or ``None`` if it is not
            given. Defaults to None, none.

    Raises:
        UserError: For the first place that cannot be written to.
    """
    places = [(*item, False) for item in (folders or {}).items()]
    places += [(*item, True) for item in (files or {}).items()]
    for name, path, is_file in places:
        if not path or is_remote(path):
            continue
        place = osp.abspath(osp.expanduser(path))
        folder = osp.dirname(place) if is_file else place
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if is_file and osp.exists(place):
                open(place, 'ab').close()
        except OSError as error:
            raise UserError(
                f'{name} {path}: cannot be written, {error.strerror}: '
                f'{error.filename or folder}. Give another place.') from error


def check_host(cfg: Config) -> None:
    """Raise if the toolbox of ``default_scope`` is not installed."""
    scope = cfg.get('default_scope') or 'mmengine'
    if not has(scope):
        raise UserError(
            missing_message(scope, f"The config's default_scope={scope!r}"))


def check_types(cfg: Config, command: str = 'train') -> None:
    """Raise if a part of the config cannot be built as it is written.

    Args:
        cfg (Config): The config; call inside its scope.
        command (str): As for :func:`preflight`. Defaults to ``'train'``.

    Raises:
        UserError: For each ``type='mmext.X'`` that is misspelt or lacks its
            host, for each of them and each loop, optimizer, scheduler and
            hook that gets an argument that it does not take or lacks one
            that it needs, and for dataloaders that torch refuses.
    """
    found = [
        f for item, f in type_findings(cfg._cfg_dict)
        if str(item.node['type']).startswith('mmext.')
        or item.registry in _CHECKED
        and not (command == 'test' and item.path.startswith(_TRAINING))
    ]
    for part in _PARTS[command]:
        name = f'{part}_dataloader'
        if isinstance(cfg.get(name), dict):
            found += _loader_findings(cfg._cfg_dict, name)
    problems = [f'{f.path}: {f.message}' for f in found if f.level == 'error']
    if problems:
        raise UserError('The config has parts that cannot be used:\n  ' +
                        '\n  '.join(problems))


def _loader_findings(cfg: dict, name: str) -> List[Finding]:
    refused = []

    def attempt(path: str, build: Callable) -> None:
        try:
            build()
        except Exception as error:
            refused.append(
                Finding('error', path, f'{type(error).__name__}: {error}'))

    found = [Finding(*f) for f in loader_findings(cfg, name, attempt)]
    return found + refused


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Raise if a folder or file of the data sets does not exist.

    Args:
        cfg (Config): The config.
        loaders (Sequence[str]): Names of the dataloaders that the command
            uses, such as ``['train_dataloader', 'val_dataloader']``.

    Raises:
        UserError: For each missing data set: what is missing, the absolute
            paths, the expected layout, how to get it and what to run
            without it.
    """
    from mmext.datasets.data_help import missing_data_error
    missing: dict = {}
    for loader in loaders:
        node = cfg.get(loader)
        if not isinstance(node, dict):
            continue
        for _, leaf in dataset_leaves(node.get('dataset'), loader):
            try:
                dataset = build_lazy(leaf)
            except Exception:  # the runner will say what is wrong with it
                dataset = None
            paths = missing_data(dataset, leaf)
            if paths:
                missing.setdefault(str(leaf['type']),
                                   (leaf, []))[1].extend(p for p in paths)
    if not missing:
        return
    messages = []
    for name, (leaf, paths) in missing.items():
        paths = list(dict.fromkeys(paths))
        error = missing_data_error(name, paths, _data_help(leaf),
                                   'is missing or empty')
        messages.append(str(error))
    raise UserError('\n'.join(messages))


def _data_help(leaf: dict) -> Any:
    from mmext.datasets.data_help import (HOST_DATA_HELP, DataHelp,
                                          classification_help)
    name = str(leaf['type'])
    found, _ = resolve(
        next(typed_dicts(dict(train_dataloader=dict(dataset=leaf)))))
    help_ = getattr(found, 'data_help', None) or \
        HOST_DATA_HELP.get(name.split('.')[-1])
    root = str(leaf.get('data_root') or '')
    if help_ is not None and 'streetworld' in root.lower():
        # the layout of the class, but nobody needs to register for it
        return replace(
            help_,
            source='python tools/dataset_converters/streetworld.py --out '
            f'{root}')
    if help_ is not None:
        return help_
    layout = [f'data_root = {leaf.get("data_root")!r}']
    prefix = leaf.get('data_prefix') or {}
    if isinstance(prefix, str):
        prefix = dict(data_prefix=prefix)
    layout += [
        f'data_root/{value}    ({key})' for key, value in prefix.items()
    ]
    if leaf.get('ann_file'):
        layout.append(f'data_root/{leaf["ann_file"]}    (ann_file)')
    of_images = getattr(found, '__module__', '').startswith('mmpretrain')
    return (classification_help if of_images else DataHelp)(
        layout='\n'.join(layout),
        source=f'see the documentation of {leaf["type"]}, or point the '
        'config at your copy,\nfor example with --cfg-options '
        'train_dataloader.dataset.data_root=/path/to/it')


def check_checkpoint(cfg: Config,
                     checkpoint: Optional[str] = None,
                     offer_alternative: bool = True) -> None:
    """Raise if the checkpoint to load does not exist.

    Args:
        cfg (Config): The config; ``load_from`` gets the path that exists.
            A config may say in ``load_from_help`` how to obtain its
            checkpoint; the text has to name the file.
        checkpoint (str, optional): Checkpoint given on the command line.
            Defaults to ``cfg.load_from``.
        offer_alternative (bool): End with the commands of the embedded
            example, which is one of streets. Defaults to True.

    Raises:
        UserError: What is missing, where it was looked for, how to get it.
    """
    wanted = checkpoint or cfg.get('load_from')
    if not wanted:
        return
    found = find_checkpoint(wanted)
    if found is not None:
        cfg.load_from = found
        return
    from mmext.datasets.data_help import EMBEDDED_ALTERNATIVE
    lines = [f'The checkpoint {wanted!r} is missing.', '  Looked for:']
    lines.append(f'    {checkpoint_place(wanted)}')
    lines.append('  How to get it:')
    lines += [f'    {line}' for line in _checkpoint_help(cfg, checkpoint)]
    # neither a classifier nor a depth estimator is their job
    segments = cfg.get('default_scope') != 'mmpretrain' and \
        not predicts_depth(cfg.get('model') or {})
    if offer_alternative and segments:
        lines.append('  Without it, the embedded data and weights run the '
                     'same job:')
        lines += [f'    {line}' for line in EMBEDDED_ALTERNATIVE.split('\n')]
    raise UserError('\n'.join(lines))


def missing_pretrained(cfg: Config) -> List[str]:
    """One message for each checkpoint of the model that does not exist.

    A config may say in ``weights_help`` how to obtain it; the text has to
    name the file.

    The path of one that exists only beside the installed package is
    replaced by its full path, for the model's own loader looks nowhere else.
    """
    messages = []
    for place, path in list(checkpoints(cfg.get('model') or {}, 'model')):
        found = find_checkpoint(path)
        if place.endswith('.teacher_ckpt') and any(
                hook.get('teacher_ckpt')
                for hook in cfg.get('custom_hooks') or []):
            continue  # the hook's own goes first
        if found is None:
            messages.append(
                f'The weights {path!r} that {place} starts from are missing.\n'
                f'  Looked for:\n    {checkpoint_place(path)}\n'
                f'  How to get it:\n    {_weights_help(cfg, place, path)}')
        elif not is_remote(path) and not osp.isfile(osp.expanduser(path)):
            key = re.sub(r'\[(\d+)\]', r'.\1', place)
            cfg.merge_from_dict({key: found})
    return messages


def _own_help(cfg: Config, key: str, path: Any) -> List[str]:
    """Lines of a config's own help, which may be that of another file."""
    help_ = str(cfg.get(key) or '').strip('\n')
    named = help_ and osp.basename(str(path)) in help_
    return help_.split('\n') if named else []


def _weights_help(cfg: Config, place: str, path: str) -> str:
    if place.endswith('.teacher_ckpt'):
        return 'train stage 1 first; tools/train_bicross.py runs all stages'
    option = place if place.endswith('.pretrained') else \
        place.rsplit('.', 1)[0]
    lines = _own_help(cfg, 'weights_help', path) or \
        [f'see the comments of the config {cfg.filename}']
    lines.append('or train from random weights with --cfg-options '
                 f'{option}=None')
    return '\n    '.join(lines)


def _checkpoint_help(cfg: Config, checkpoint: Optional[str]) -> List[str]:
    # a config that replaces load_from inherits the help of another file
    lines = _own_help(cfg, 'load_from_help', cfg.get('load_from'))
    config = str(cfg.filename or '')
    for model in read_model_index().values():
        weights = model.get('Weights')
        if weights and is_remote(weights) and config.endswith(
                str(model.get('Config'))):
            lines.append(f'download {weights}')
    stage = _STAGE_BEFORE.get(type_name((cfg.get('model') or {}).get('type')))
    if checkpoint:
        option = 'give the right path on the command line'
    elif stage:
        option = f'train {stage} first; tools/train_bicross.py runs all stages'
    else:
        option = 'train or download the source model, then give its path ' \
            'with --cfg-options load_from=/path/to/checkpoint.pth'
    return lines + [option]
