# Copyright (c) mmext contributors. All rights reserved.
"""Models and adapters by config, as the adapter tools need them."""
from typing import Any, Optional

import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import Tensor

from mmext.models.adapters import MoSAModel, model_from_adapter
from mmext.models.adapters.lifecycle import TASKS
from mmext.registry import MODELS
from mmext.utils.config_build import model_config
from mmext.utils.config_paths import find_checkpoint
from mmext.utils.io import PathLike, load_checkpoint_file
from mmext.utils.launch import is_tuned
from mmext.utils.user_error import MissingFileError, UserError


def _model_config(cfg: Config, pretrained: bool) -> Any:
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    if cfg.get('model') is None:
        raise UserError('The config has no model.')
    return model_config(cfg, pretrained)


def build_host(cfg: Config, weights: Optional[PathLike] = None) -> nn.Module:
    """Build the host of a config, with its pretrained weights.

    Args:
        cfg (Config): Config of the host, or of a ``MoSAModel`` around it.
        weights (str or PathLike, optional): Checkpoint of the whole host.
            Defaults to None, what ``init_cfg`` in the config loads.

    Returns:
        nn.Module: The host.

    Raises:
        UserError: If pretrained weights are missing or do not fit.
    """
    host = _initialised(cfg, weights is None)
    if weights is not None:
        load_whole(host, weights)
    return host


def _initialised(cfg: Config, pretrained: bool) -> nn.Module:
    model = _model_config(cfg, pretrained)
    if is_tuned(model):
        preprocessor = model.get('data_preprocessor')
        model = model.module
        if preprocessor is not None:
            model.setdefault('data_preprocessor', preprocessor)
    try:
        host = MODELS.build(model)
        host.init_weights()
    except FileNotFoundError as error:
        raise MissingFileError(
            f'The pretrained weights of the config are missing: {error}. Its '
            'comments say where they come from.') from error
    return host


def _trained_host(cfg: Config) -> nn.Module:
    """The host as a training begins with it: from ``load_from``, if any."""
    start = cfg.get('load_from')
    if not start:
        return build_host(cfg)
    found = find_checkpoint(start)
    if found is None:
        raise MissingFileError(
            f'load_from of the config, {start}, is missing: it holds the '
            'host of the adapter. Give its path with --backbone (backbone=).')
    host = _initialised(cfg, False)
    # As the Runner does: a head of other classes is the adapter's to bring,
    # and the adapter's fingerprint tells whether the rest is right.
    checkpoint = load_checkpoint(host, found, map_location='cpu')
    if set(host.state_dict()) - set(checkpoint.get('state_dict', checkpoint)):
        # What it lacks is what init_cfg loads.
        host = _initialised(cfg, True)
        load_checkpoint(host, found, map_location='cpu')
    return host


def build_tuned(cfg: Config, weights: Optional[PathLike] = None) -> MoSAModel:
    """Build the ``MoSAModel`` of a config without pretrained weights.

    Args:
        cfg (Config): The config.
        weights (str or PathLike, optional): Checkpoint of a run with it,
            which also restores the generator of draws. Defaults to None.

    Returns:
        MoSAModel: The model, with the adapter of the config in use where it
        is still there.

    Raises:
        UserError: If the config has another model, or the checkpoint does
            not fit.
    """
    model = _model_config(cfg, False)
    if not is_tuned(model):
        raise UserError(
            "Expected a config with model.type='mmext.MoSAModel', but got "
            f'{model.get("type")!r}.')
    try:
        built = MODELS.build(model)
    except (ValueError, TypeError) as error:
        raise UserError(
            f'The model of the config cannot be built: {error}') from error
    if weights is not None:
        own = built.active_adapter
        checkpoint = load_checkpoint_file(weights)
        _add_further(built, checkpoint)
        _fill(built, checkpoint, weights)
        if 'mosa' in checkpoint:
            built.load_draw_state(checkpoint['mosa'])
        if own in built.adapter_cfgs:
            built.set_active(own)
    return built


def _add_further(model: MoSAModel, checkpoint: dict) -> None:
    """Have the adapters of a run, beside or instead of the config's.

    The one that was in use is so again: its heads have the host's names.
    """
    saved = (checkpoint.get('mosa') or {}).get('options', {})
    further = sorted(set(saved) - set(model.adapter_cfgs))
    for name in further:
        options = dict(saved[name])
        try:
            # never a head: its config could name any function
            model.add_adapter(name, options.pop('adapter'),
                              options.pop('targets'), None, **options)
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'The adapter {name!r} of the checkpoint cannot '
                            f'be put into the model: {error}') from error
    state = checkpoint.get('state_dict', checkpoint)
    aside = {key.split('.')[1] for key in state if key.startswith(f'{TASKS}.')}
    used = sorted(set(saved) - aside)
    if further and used and model.active_adapter not in used:
        model.set_active(used[0])
        for name in set(model.adapter_cfgs) - set(saved):
            model.delete_adapter(name)
    for name in further:
        start = '' if name == model.active_adapter else f'{TASKS}.{name}.'
        model.fit_heads(
            name, {
                key[len(start):]: value
                for key, value in state.items() if key.startswith(start)
            })


def load_whole(model: nn.Module, path: PathLike) -> dict:
    """Load a checkpoint that must have exactly the keys of ``model``.

    Args:
        model (nn.Module): The model.
        path (str or PathLike): As mmengine writes it, or a state dict.

    Returns:
        dict: The checkpoint.

    Raises:
        UserError: If it does not fit.
    """
    checkpoint = load_checkpoint_file(path)
    _fill(model, checkpoint, path)
    return checkpoint


def _fill(model: nn.Module, checkpoint: dict, path: PathLike) -> None:
    state = checkpoint.get('state_dict', checkpoint)
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    own = model.state_dict()
    if not set(state) & set(own) and any(f'backbone.{key}' in own
                                         for key in state):
        raise UserError(
            f'{path} holds a backbone only. Name it in init_cfg of the '
            "config's backbone (type='Pretrained') instead.")
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise UserError(f'{path} does not fit the model of the config: '
                        f'{error}') from error


def tuned_from(cfg: Config,
               source: PathLike,
               backbone: Optional[PathLike] = None,
               check: bool = True) -> MoSAModel:
    """The tuned model of a checkpoint (``*.pth``) or an adapter.

    Args:
        cfg (Config): The config of the model or, for an adapter, of its
            host.
        source (str or PathLike): Checkpoint of a run, or an adapter folder
            or ``*.safetensors`` file.
        backbone (str or PathLike, optional): Checkpoint of the host, for an
            adapter. Defaults to None, what a training with the config
            begins with: ``load_from``, or what ``init_cfg`` loads.
        check (bool): See
            :func:`~mmext.models.adapters.checkpoint.load_adapter`.

    Returns:
        MoSAModel: In eval mode.
    """
    if str(source).endswith('.pth'):
        return build_tuned(cfg, source).eval()
    host = _trained_host(cfg) if backbone is None else \
        build_host(cfg, backbone)
    return model_from_adapter(host, source, check).eval()
