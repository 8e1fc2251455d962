# Copyright (c) mmext contributors. All rights reserved.
"""A certified classifier by config and checkpoint, at p = inf."""
import logging
import math
import re
from typing import Any, Iterator, Optional

import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmext.engine.hooks import CheckpointMatchHook
from mmext.engine.hooks.checkpoint_match_hook import (check_source,
                                                      given_weights)
from mmext.models.lipschitz.p_norm import saved_p, set_p
from mmext.utils.io import PathLike, safe_load
from mmext.utils.launch import brings_weights
from mmext.utils.user_error import ConfigError
from .adapters import build_host

# Parts of the names of transforms that interpolate.
RESAMPLING = ('Resize', 'Rotat', 'Affine', 'Translate', 'Shear',
              'EfficientNet')

# A learnable scalar of the loss, which no prediction reads.
LOSS = r'(^|\.)head\.loss_module\.'


def prepare_certified(model: nn.Module,
                      checkpoint: Optional[dict] = None) -> None:
    """Set p to infinity and note the p of the checkpoint.

    Args:
        model (nn.Module): ``mmext.LipschitzClassifier`` or
            ``mmext.CertifiedEnsemble``.
        checkpoint (dict, optional): What its weights came from.

    Raises:
        ConfigError: If the model gives no certificates.
    """
    if not hasattr(model, 'certify'):
        raise ConfigError(
            "Expected a model of type 'mmext.LipschitzClassifier' or "
            f"'mmext.CertifiedEnsemble', but got {type(model).__name__}. The "
            'same backbone under mmext.LipschitzClassifier gives '
            'certificates.')
    if 'lp_norm' in (checkpoint or {}):
        # With a finite one the model refuses to certify.
        model.trained_p = saved_p(checkpoint)
    set_p(model, math.inf)


def load_certified(model: nn.Module, path: PathLike) -> dict:
    """Load a checkpoint that fills the whole of a certified classifier.

    A learnable scalar of the loss may be missing or left over.

    Args:
        model (nn.Module): The classifier.
        path (str or PathLike): As mmengine writes it, or a state dict.

    Returns:
        dict: The checkpoint.

    Raises:
        UserError: If it does not fit, or has values that are not finite.
    """
    checkpoint = safe_load(path)
    weights = given_weights(checkpoint, path)
    check_source(model.state_dict(), weights,
                 lambda key: re.search(LOSS, key) is not None, (LOSS, ),
                 str(path))
    model.load_state_dict(weights, strict=False)
    return checkpoint


def match_checkpoint(runner: Runner) -> None:
    """Let a runner stop at a checkpoint that :func:`load_certified` refuses.

    Args:
        runner (Runner): Of a certified classifier, before it loads.
    """
    runner.register_hook(CheckpointMatchHook((LOSS, ), (LOSS, )))


def warn_resampling(cfg: Config) -> None:
    """Warn of a test pipeline that makes new pixels out of several.

    Args:
        cfg (Config): With ``test_dataloader``, or nothing is checked.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    names = list(_step_names(dataset.get('pipeline')))
    found = [
        name for name in names if any(word in name for word in RESAMPLING)
    ]
    if found:
        print_log(
            f'The test pipeline has {", ".join(found)}: certificates speak of '
            'the pixels after it, not of those of the original image. To '
            'certify the original, leave it out, set img_size of the backbone '
            'to the size of the images, and enlarge small ones by its '
            'input_pad.',
            logger='current',
            level=logging.WARNING)


def _step_names(steps: Any) -> Iterator[str]:
    """Names of transforms, also of those inside others."""
    if isinstance(steps, (list, tuple)):
        for step in steps:
            yield from _step_names(step)
    elif isinstance(steps, dict):
        yield str(steps.get('type'))
        yield from _step_names(steps.get('transforms'))


def certified_model(cfg: Config, weights: Optional[PathLike] = None) -> Any:
    """Build a certified classifier and load its checkpoint.

    Args:
        cfg (Config): Its config.
        weights (str or PathLike, optional): Checkpoint of a finished
            training. Defaults to None, as for an ensemble whose members name
            theirs.

    Returns:
        nn.Module: In evaluation, at p = inf, with ``_config`` and
        ``_dataset_meta``.

    Raises:
        UserError: If the checkpoint does not fit, there is none, or the
            model gives no certificates.
    """
    model = build_host(cfg)
    prepare_certified(model)
    checkpoint = {}
    if weights:
        checkpoint = load_certified(model, weights)
        prepare_certified(model, checkpoint)
    elif not brings_weights(cfg.model) and not cfg.model.get('init_cfg'):
        raise ConfigError(
            'There are no weights to certify: expected the checkpoint of a '
            'finished training. Only a mmext.CertifiedEnsemble whose members '
            'all name theirs, or a model with init_cfg, does without.')
    model._config = cfg
    model._dataset_meta = checkpoint.get('meta', {}).get('dataset_meta') or {}
    return model.eval()
