# Copyright (c) mmext contributors. All rights reserved.
"""Options of a depth estimator that cannot work, told before it runs."""
from typing import Collection, Mapping, MutableMapping, Optional

from torch import Tensor, nn

from mmext.utils.arguments import as_switch
from mmext.utils.depth_crops import check_crop, check_depths
from mmext.utils.user_error import ConfigError
from .spike_encoders import SpikeSE

MODES = ('whole', 'whole_flip', 'slide', 'slide_flip')


def check_cfgs(train_cfg: MutableMapping, test_cfg: MutableMapping,
               train_keys: Collection[str],
               test_keys: Collection[str]) -> None:
    """Check ``train_cfg`` and ``test_cfg``, whose switches become bools.

    Args:
        train_cfg (MutableMapping): With all of its defaults.
        test_cfg (MutableMapping): The same.
        train_keys (Collection[str]): What the first may have.
        test_keys (Collection[str]): What the second may have.

    Raises:
        ConfigError: If a key is unknown or a value impossible.
    """
    for name, cfg, known in (('train_cfg', train_cfg, train_keys),
                             ('test_cfg', test_cfg, test_keys)):
        unknown = sorted(set(cfg) - set(known))
        if unknown:
            raise ConfigError(
                f'Expected {name} of mmext.BiCrossDepthEstimator to have '
                f'keys of {sorted(known)}, but got {unknown}.')
        cfg['clamp_first'] = as_switch(f'{name}.clamp_first',
                                       cfg['clamp_first'])
    if test_cfg['mode'] not in MODES:
        raise ConfigError(f'Expected test_cfg.mode to be one of {MODES}, '
                          f'but got {test_cfg["mode"]!r}.')
    check_crop(train_cfg['crop'], 'train_cfg.crop')
    check_depths(train_cfg['min_depth'], train_cfg['max_depth'], 'train_cfg')
    check_depths(
        test_cfg['min_depth'],
        test_cfg['max_depth'],
        'test_cfg',
        no_limit=True)


def check_temporal(temporal: Optional[nn.Module], backbone: Mapping) -> None:
    """Whether the backbone takes what a temporal module gives.

    Args:
        temporal (nn.Module, optional): The module.
        backbone (Mapping): Config of the backbone; what it does not say is
            not checked.

    Raises:
        ConfigError: If it does not.
    """
    given = getattr(temporal, 'out_channels', None)
    taken = backbone.get('in_channels')
    if isinstance(given, int) and isinstance(taken, int) and given != taken:
        raise ConfigError(
            f'temporal ({type(temporal).__name__}) gives {given} channels, '
            f'but backbone.in_channels is {taken}. '
            f'Set temporal.{_argument(temporal, "out")}={taken}, or '
            f'backbone.in_channels={given}.')


def check_ticks(temporal: nn.Module, inputs: Tensor) -> None:
    """Whether a temporal module takes as many moments as come.

    Args:
        temporal (nn.Module): The module.
        inputs (Tensor): (B, T, h, w).

    Raises:
        ConfigError: If it does not.
    """
    taken, given = getattr(temporal, 'in_channels', None), inputs.shape[1]
    if isinstance(taken, int) and taken != given:
        raise ConfigError(
            f'temporal ({type(temporal).__name__}) takes {taken} moments, '
            f'but the inputs have {given}. '
            f'Set temporal.{_argument(temporal, "in")}={given}, or let the '
            f'data have {taken}: length of mmext.LoadSpikeFromFile, ticks of '
            'mmext.StreetWorldDepthDataset.')


def _argument(temporal: nn.Module, side: str) -> str:
    """What sets the channels: of SpikeSE both sides have the same."""
    return 'channels' if isinstance(temporal, SpikeSE) else f'{side}_channels'
