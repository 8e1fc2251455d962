# Copyright (c) mmext contributors. All rights reserved.
"""Files that hold adapters only: safetensors beside a JSON config."""
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import mmengine
import torch
import torch.nn as nn
from torch import Tensor

from mmext.utils.io import (CheckpointError, PathLike, atomic_save, safe_load,
                            tensors_digest, write_json)
from mmext.utils.user_error import ConfigError, MissingFileError
from mmext.version import __version__
from .adapter_config import (FORMAT, FORMAT_VERSION, MODEL_OPTIONS,
                             AdapterError, check_config)
from .adapter_state import AdapterTensors, check_backbone, compare, fingerprint
from .mosa_model import MoSAModel
from .optimizer_state import (OPTIMIZER, check_optimizer, load_optimizer_state,
                              optimizer_tensors)
from .standard import standard_config

CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'
_RNG = 'mosa_rng.'
_PICKLES = ('.pth', '.pt', '.bin', '.pkl', '.pickle', '.ckpt')


def check_adapter_name(path: PathLike) -> Path:
    """The path of an adapter to be, whose name is one of an adapter.

    Raises:
        AdapterError: If it is empty, or the name of a pickle file.
    """
    if not os.fspath(path):
        raise AdapterError(
            'Expected the path of an adapter, a folder or a *.safetensors '
            "file, but got ''. Give a name; '.' is the current folder.")
    given = Path(os.path.expanduser(os.fspath(path)))
    if given.suffix in _PICKLES:
        raise AdapterError(
            f'{given} is the name of a pickle, but an adapter is a folder '
            f'with {CONFIG_FILE} and {WEIGHTS_FILE}, or a *.safetensors file '
            'with a *.json beside it. Give a name without '
            f'{given.suffix}, or {given.with_suffix(".safetensors").name}.')
    return given


def adapter_files(path: PathLike) -> Tuple[Path, Path]:
    """The two files of an adapter.

    Args:
        path (str or PathLike): A folder, or a ``*.safetensors`` file, whose
            config is then the ``*.json`` beside it.

    Returns:
        tuple[Path, Path]: Weights and config.

    Raises:
        AdapterError: For the name of a pickle file, or none.
    """
    if not os.fspath(path):
        check_adapter_name(path)
    given = Path(os.path.expanduser(os.fspath(path)))
    if given.suffix == '.safetensors':
        return given, given.with_suffix('.json')
    if given.suffix in _PICKLES or given.is_file():
        raise AdapterError(
            f'{given} is not an adapter: adapters are a folder with '
            f'{CONFIG_FILE} and {WEIGHTS_FILE}, or a *.safetensors file with '
            'a *.json beside it. Files that torch.save wrote are pickles, '
            'which may execute code, and are not read here. Turn a '
            'checkpoint of yours into an adapter with '
            'tools/model_converters/export_adapter.py.')
    return given / WEIGHTS_FILE, given / CONFIG_FILE


def save_adapter(model: MoSAModel,
                 path: PathLike,
                 name: Optional[str] = None,
                 merged: bool = False,
                 optimizer: Any = None) -> Path:
    """Write an adapter and its heads, without the backbone.

    The config records the options, the merge mode, a fingerprint of the
    frozen weights, versions, and a digest of the tensors.

    Args:
        model (MoSAModel): The model; it is not changed.
        path (str or PathLike): Folder, or ``*.safetensors`` file.
        name (str, optional): Defaults to None, the active adapter.
        merged (bool): Write the merged standard adapter, smaller and ready
            for use; else the modules with their masks and the generator of
            draws, from which training can go on. Defaults to False.
        optimizer (Optimizer | OptimWrapper, optional): Write its moments
            and options too. Defaults to None.

    Returns:
        Path: Where the weights are.

    Raises:
        RuntimeError: If modules are asked for while the model is merged.
        AdapterError: If a value is not finite, or ``path`` is no name of an
            adapter.
        ConfigError: If a merged adapter shall have an optimizer.
    """
    name = name or model.active_adapter
    weights, config = adapter_files(check_adapter_name(path))
    view = AdapterTensors(model, name)
    if not merged and view.merged:
        raise RuntimeError(
            f'The adapter {name!r} is merged, so its modules are put aside. '
            'unmerge() first, or save it with merged=True.')
    tensors = view.standard() if merged else view.live()
    bad = [key for key, value in tensors.items() if not _finite(value)]
    if bad:
        raise AdapterError(
            f'{", ".join(bad[:3])} ({len(bad)} tensors) of the adapter '
            f'{name!r} hold values that are not finite; nothing was '
            'written. Go back to an earlier checkpoint.')
    extra: Dict[str, Any] = {}
    if merged and optimizer is not None:
        raise ConfigError('A merged adapter is not trained on, so that it '
                          'has no optimizer; leave optimizer= or merged= out.')
    if not merged:
        state = model.draw_state()['rng']
        extra['rng_seed'] = state['seed']
        for device, value in state['generators'].items():
            tensors[_RNG + device] = value
    if optimizer is not None:
        moments, extra['optimizer'] = optimizer_tensors(
            view.live(), optimizer)
        tensors.update(moments)
    tensors = {k: v.detach().cpu().clone() for k, v in tensors.items()}
    atomic_save(tensors, weights)
    cfg = model.adapter_cfgs[name]
    write_json(
        config,
        dict(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            flavour='merged' if merged else 'training',
            name=name,
            **(standard_config(cfg) if merged else deepcopy(cfg)),
            trained_with=deepcopy(cfg['split']),
            model=dict({k: getattr(model, k)
                        for k in MODEL_OPTIONS},
                       loss=model.loss_cfg),
            host_keys=view.host_keys,
            backbone=fingerprint(model, view.host_keys),
            versions=dict(
                mmext=__version__,
                torch=torch.__version__,
                mmengine=mmengine.__version__),
            digest=tensors_digest(tensors),
            **extra))
    return weights


def read_adapter(path: PathLike) -> Tuple[dict, Dict[str, Tensor]]:
    """Read and check the files of an adapter.

    Args:
        path (str or PathLike): Folder, or ``*.safetensors`` file.

    Returns:
        tuple: The config, and the tensors by ``<host module>.mosa.<...>``
        and, for heads, by the host's names.

    Raises:
        MissingFileError: If a file is not there.
        AdapterError: If they are no adapter, do not belong together, or
            hold values that are not finite.
    """
    weights, config = adapter_files(path)
    for file in (weights, config):
        if not file.is_file():
            raise MissingFileError(
                f'Expected an adapter at {path}, but there is no {file}. An '
                f'adapter is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, '
                'or a *.safetensors file with a *.json beside it.')
    with open(weights, 'rb') as stream:
        start = stream.read(9)
    # A safetensors file has the size of its header in eight bytes, then it.
    if start[8:] != b'{' and (start[:2] == b'PK' or start[:1] == b'\x80'):
        raise AdapterError(
            f'{weights} is a pickle (torch.save), not safetensors, and was '
            'not read: a pickle may execute code. Ask for a file that '
            'save_adapter wrote, or write one from your own checkpoint with '
            'tools/model_converters/export_adapter.py.')
    try:
        cfg = json.loads(config.read_text(encoding='utf-8'))
    except ValueError as error:
        raise AdapterError(f'{config} is not JSON ({error}). Fetch the '
                           'adapter again.') from error
    check_config(cfg, config)
    try:
        tensors = safe_load(weights)
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    if tensors_digest(tensors) != cfg['digest']:
        raise AdapterError(
            f'{weights} is not what {config.name} describes: its digest '
            'differs. One of the two was changed or replaced; fetch or save '
            'both again.')
    bad = [key for key, value in tensors.items() if not _finite(value)]
    if bad:
        raise AdapterError(f'{weights} holds values that are not finite in '
                           f'{", ".join(bad[:3])} ({len(bad)} tensors).')
    return cfg, tensors


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())


def _split_tensors(tensors: Dict[str, Tensor]) -> Tuple[dict, dict, dict]:
    """Adapter and heads; generator states; optimizer moments."""
    groups: List[Dict[str, Tensor]] = [{}, {}, {}]
    for key, value in tensors.items():
        group = 1 if key.startswith(_RNG) else \
            2 if key.startswith(OPTIMIZER) else 0
        groups[group][key] = value
    return groups[0], groups[1], groups[2]


def load_adapter(model: MoSAModel,
                 path: PathLike,
                 name: Optional[str] = None,
                 resume: bool = False,
                 optimizer: Any = None,
                 check: bool = True,
                 head: Optional[dict] = None) -> str:
    """Load an adapter into a model; all of it or, after an error, nothing.

    A name that the model does not have is added with the options of the
    file and stays inactive; one that it has must have the same options.

    Args:
        model (MoSAModel): The model, on the backbone of the file.
        path (str or PathLike): Folder, or ``*.safetensors`` file.
        name (str, optional): Defaults to None, the name in the file.
        resume (bool): Go on with the file's generator of draws.
            Defaults to False.
        optimizer (Optimizer | OptimWrapper, optional): Receives the moments
            of the file. Defaults to None.
        check (bool): Refuse other frozen weights than those the adapter was
            trained on. False compares names and shapes only.
            Defaults to True.
        head (dict, optional): Config of the head for a new name, where it
            is of another kind than the one in use; see
            :meth:`MoSAModel.add_adapter`. Defaults to None, one of the same
            kind with the classes of the file.

    Returns:
        str: Name of the adapter in the model.

    Raises:
        AdapterError: If the file is no adapter, or does not fit.
    """
    cfg, tensors = read_adapter(path)
    state, rng, moments = _split_tensors(tensors)
    name = name or cfg['name']
    check_backbone(model, cfg, AdapterError, check)
    if resume and 'rng_seed' not in cfg:
        raise AdapterError(f'{path} is a merged adapter, from which training '
                           'cannot go on. Load the training flavour.')
    if optimizer is not None:
        if moments and 'optimizer' not in cfg:
            raise AdapterError(
                f'{path} holds the moments of an optimizer, but its JSON '
                'has no "optimizer" with their options. Fetch or save the '
                'adapter again.')
        if not moments:
            raise AdapterError(f'{path} has no optimizer state; it was saved '
                               'without optimizer=, or before a step.')
        live = AdapterTensors(model, name).live() \
            if name in model.adapter_cfgs else {}
        try:
            check_optimizer(live, optimizer, moments, cfg['optimizer'])
        except ValueError as error:
            raise AdapterError(f'{path}: {error}') from error
    if name in model.adapter_cfgs:
        _same_options(model, name, cfg, path)
        _fill(model, name, state, path)
    else:
        with model.all_or_nothing(name):
            try:
                split = dict(cfg['split'])
                model.add_adapter(name, cfg['adapter'], cfg['targets'], head,
                                  **split)
            except (ValueError, TypeError, KeyError) as error:
                raise AdapterError(f'The adapter of {path} cannot be put '
                                   f'into this model: {error}') from error
            if head is None:
                model.fit_heads(name, state)
            _fill(model, name, state, path)
    if optimizer is not None:
        load_optimizer_state(live, optimizer, moments, cfg['optimizer'])
    if resume:
        model.rng.load_state_dict(
            dict(
                seed=cfg['rng_seed'],
                generators={
                    k[len(_RNG):]: v
                    for k, v in rng.items()
                }))
    return name


def _same_options(model: MoSAModel, name: str, cfg: dict,
                  path: PathLike) -> None:
    mine = model.adapter_cfgs[name]
    wrong = [
        f'{group}.{key}: file {cfg[group].get(key)!r}, model '
        f'{mine[group].get(key)!r}' for group in ('adapter', 'split')
        for key in sorted(set(cfg[group]) | set(mine[group]))
        if key != 'seed' and cfg[group].get(key) != mine[group].get(key)
    ]
    if cfg['targets'] != mine['targets']:
        wrong.append(f'targets: file {cfg["targets"]!r}, model '
                     f'{mine["targets"]!r}')
    if wrong:
        kind = 'merged adapter' if cfg['flavour'] == 'merged' else 'adapter'
        raise AdapterError(
            f'The {kind} of {path} has other options than {name!r} of the '
            'model; nothing was loaded.\n  ' + '\n  '.join(wrong) +
            '\nGive another name= to add it with its own options, or build '
            'the model with those of the file. load_standard() starts '
            'modules from a merged adapter.')


def _fill(model: MoSAModel, name: str, state: Dict[str, Tensor],
          path: PathLike) -> None:
    view = AdapterTensors(model, name)
    if view.merged:
        raise RuntimeError(f'The adapter {name!r} is merged; call unmerge() '
                           'before loading into it.')
    problems = compare(view.live(), state)
    if problems:
        raise AdapterError(
            f'The tensors of {path} do not fit; nothing was loaded.\n  ' +
            '\n  '.join(problems) + '\nA head of another kind or size is '
            'made by load_adapter(..., name=..., head=dict(...)) under a new '
            'name (--head of peft_report.py).')
    view.load(state)


def model_from_adapter(module: Union[dict, nn.Module],
                       path: PathLike,
                       check: bool = True,
                       **options: Any) -> MoSAModel:
    """Wrap a fresh host by the options of an adapter file, and load it.

    Args:
        module (dict | nn.Module): The host with its pretrained weights, as
            for :class:`MoSAModel`.
        path (str or PathLike): Folder, or ``*.safetensors`` file.
        check (bool): See :func:`load_adapter`. Defaults to True.
        **options: Options of ``MoSAModel`` that shall differ from those of
            the training, for example ``num_passes=1``.

    Returns:
        MoSAModel: In training mode, as any new module; for the generator
        and the optimizer see :func:`load_adapter`.

    Raises:
        AdapterError: If the file is no adapter, or does not fit. A host
            that was given as a module is then as it was.

    Examples:
        >>> model = model_from_adapter(cfg.model.module, 'adapters/cub')
        >>> model.eval()
    """
    cfg, tensors = read_adapter(path)
    split = {k: v for k, v in cfg['split'].items() if k != 'fixed_mask'}
    arguments = {**split, **cfg['model'], **options}
    try:
        model = MoSAModel(
            module,
            adapter=cfg['adapter'],
            targets=cfg['targets'],
            **arguments)
    except (ValueError, TypeError) as error:
        raise AdapterError(f'The adapter of {path} cannot be put into this '
                           f'host: {error}') from error
    state, heads = _split_tensors(tensors)[0], {}
    try:
        check_backbone(model, cfg, AdapterError, check)
        heads = model.fit_heads(model.active_adapter, state)
        _fill(model, model.active_adapter, state, path)
    except BaseException:
        for child, head in heads.items():
            model.use_head(child, head)
        model.unload()
        raise
    return model
