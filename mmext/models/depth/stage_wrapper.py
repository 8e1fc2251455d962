# Copyright (c) mmext contributors. All rights reserved.
"""What the wrappers of stages 2 and 3 have in common."""
from copy import deepcopy
from typing import Any, Dict, Mapping, Optional

from mmengine.model import BaseModel
from torch import Tensor, nn

from mmext.registry import MODELS
from mmext.utils.arguments import as_switch, check_number
from mmext.utils.config_types import type_name
from mmext.utils.user_error import ConfigError


class _TeacherSlot:
    """Holds a module that is no part of the wrapper.

    Not its parameters, not in its checkpoints, and not copied with it: the
    mean teacher is a copy of the wrapper, and shall not hold itself.
    """

    def __init__(self) -> None:
        self.module: Optional[nn.Module] = None

    def __deepcopy__(self, memo: dict) -> '_TeacherSlot':
        return type(self)()


class StageWrapper(BaseModel):
    """A depth estimator in training, with what only that training needs.

    Its ``state_dict`` has the estimator under the estimator's own names, so
    that checkpoints of every stage are also those of the bare estimator:
    testing needs no wrapper, and the next stage just loads. Prediction is
    the estimator's.

    Args:
        inner (str): Name of the attribute that holds the estimator.
        model (dict): Its config. Its data preprocessor becomes the
            wrapper's.
        data_preprocessor (dict, optional): Where the estimator has none, or
            the same: the runner hands over that of the config's top level.
        input_key (str): Which of several inputs is predicted.
        init_cfg (dict or list, optional): Initialisation.

    Raises:
        ConfigError: If two data preprocessors differ, or the model is no
            estimator for this training.
    """

    def __init__(self,
                 inner: str,
                 model: Mapping,
                 data_preprocessor: Optional[dict] = None,
                 input_key: str = 'spike',
                 init_cfg: Optional[dict] = None) -> None:
        model = deepcopy(dict(model))
        own = model.pop('data_preprocessor', None)
        _same_preprocessor(data_preprocessor, own, inner)
        super().__init__(
            data_preprocessor=data_preprocessor or own, init_cfg=init_cfg)
        self.input_key, self._inner = input_key, inner
        self.add_module(inner, MODELS.build(model))
        for method in ('depth_and_uncertainty', 'supervised_losses'):
            if not hasattr(self.estimator, method):
                raise ConfigError(
                    'Expected an estimator such as '
                    'mmext.BiCrossDepthEstimator, with '
                    'depth_and_uncertainty and supervised_losses, but '
                    f'{type(self.estimator).__name__} has no {method}.')
        self._slot = _TeacherSlot()
        self._register_state_dict_hook(_strip_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    @property
    def estimator(self) -> nn.Module:
        """The depth estimator that is trained."""
        return getattr(self, self._inner)

    @property
    def teacher(self) -> nn.Module:
        """The teacher.

        Raises:
            ConfigError: If none was attached.
        """
        if self._slot.module is None:
            raise ConfigError(
                f'{type(self).__name__} has no teacher: add '
                "dict(type='mmext.DistillHook') to custom_hooks, which "
                'attaches it before training.')
        return self._slot.module

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Freeze a teacher and use it.

        Args:
            teacher (nn.Module): A depth estimator. Moved to the device of
                this model.
        """
        device = next(self.parameters()).device
        self._slot.module = teacher.to(device).eval().requires_grad_(False)

    def forward(self,
                inputs: Any,
                data_samples: Any = None,
                mode: str = 'tensor') -> Any:
        """Losses of the stage, or the estimator's prediction.

        Args:
            inputs (Tensor or dict[str, Tensor]): Of the stage in training;
                else also a tensor for the estimator.
            data_samples (list or dict, optional): Data samples.
            mode (str): 'loss', 'predict' or 'tensor'.

        Returns:
            Any: Losses, data samples or maps.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if isinstance(inputs, dict):
            inputs = inputs[self.input_key]
        if isinstance(data_samples, dict):
            data_samples = data_samples[self.input_key]
        return self.estimator(inputs, data_samples, mode=mode)

    def loss(self, inputs: Dict[str, Tensor],
             data_samples: Any) -> Dict[str, Tensor]:
        """Losses of the stage."""
        raise NotImplementedError


def _strip_prefix(module: StageWrapper, state_dict: dict, prefix: str,
                  _: Any) -> None:
    inner = f'{prefix}{module._inner}.'
    for key in [k for k in state_dict if k.startswith(inner)]:
        state_dict[prefix + key[len(inner):]] = state_dict.pop(key)


def _add_prefix(module: StageWrapper, state_dict: dict, prefix: str, *args:
                Any) -> None:
    own = tuple(f'{prefix}{name}.' for name, _ in module.named_children())
    for key in [k for k in state_dict if k.startswith(prefix)]:
        if not key.startswith(own):
            state_dict[f'{prefix}{module._inner}.{key[len(prefix):]}'] = \
                state_dict.pop(key)


def _same_preprocessor(given: Any, own: Any, inner: str) -> None:
    """Refuse two that differ: which one rules depends on who builds.

    A bare estimator has its own, as does a wrapper that is built without the
    runner, which sets the top level's.
    """
    if not isinstance(given, Mapping) or not isinstance(own, Mapping):
        return
    apart = [
        key for key in sorted({*given, *own})
        if _comparable(key, given) != _comparable(key, own)
    ]
    if apart:
        top, inside = ({
            key: one.get(key)
            for key in apart
        } for one in (given, own))
        name = f'model.{inner}.data_preprocessor'
        raise ConfigError(
            f'Expected data_preprocessor and {name} to be the same, but the '
            f'one has {top} and the other {inside}. Set both alike, such as '
            f'--cfg-options data_preprocessor.size=96,160 {name}.size=96,160, '
            'or one of them to None.')


def _comparable(key: str, cfg: Mapping) -> Any:
    value = cfg.get(key)
    if key == 'type':
        return type_name(value)
    return list(value) if isinstance(value, (list, tuple)) else value


def take_options(name: str, given: Optional[Mapping],
                 defaults: Mapping) -> Dict[str, Any]:
    """Merge the options of a loss with their defaults.

    What a default is tells what may be given: a switch, a whole number of at
    least 1, or a number that is not negative, as all weights are.

    Raises:
        ConfigError: If there is no option of a name, or its value is not
            what its default is.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f'Expected {name} to be a dict with keys among '
                          f'{sorted(defaults)}, but got {given!r}.')
    unknown = sorted(set(given or {}) - set(defaults))
    if unknown:
        raise ConfigError(f'Expected {name} with keys among '
                          f'{sorted(defaults)}, but got {unknown}.')
    options = dict(defaults, **(given or {}))
    for key, value in defaults.items():
        if isinstance(value, bool):
            options[key] = as_switch(f'{name}.{key}', options[key])
        elif isinstance(value, (int, float)):
            whole = isinstance(value, int)
            check_number(f'{name}.{key}', options[key], int(whole), whole)
        elif key.endswith('channels'):
            check_number(
                f'{name}.{key}', options[key], 1, whole=True, optional=True)
    return options


def channels_of(estimator: nn.Module, path: str, option: str) -> int:
    """Channels of a tapped map of DPT's decoder.

    Args:
        estimator (nn.Module): The estimator.
        path (str): The tap, such as ``'decode_head.layer_4'``.
        option (str): What to set if it cannot be known.

    Returns:
        int: The channels.

    Raises:
        ConfigError: If the path is of another module.
    """
    head, _, name = path.partition('.')
    decoder = getattr(estimator, head, None)
    kind, _, index = name.partition('_')
    reduce_ = getattr(decoder, f'reduce_{index}', None)
    if kind == 'layer' and reduce_ is not None:
        return reduce_.in_channels
    if kind == 'path' and hasattr(decoder, 'channels'):
        return decoder.channels
    raise ConfigError(f'The channels of {path!r} are not known: set {option}.')
