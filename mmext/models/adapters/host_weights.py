# Copyright (c) mmext contributors. All rights reserved.
"""Did the pretrained files of a host arrive in it?

mmengine loads what fits and logs the rest. Under adapters the rest stays
frozen, so that a file of other names trains adapters on random features.
"""
import logging
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Set, Tuple

import torch.nn as nn
from mmengine.logging import print_log

from mmext.utils.config_paths import init_cfgs, is_pretrained
from mmext.utils.user_error import ConfigError
from .lifecycle import TASKS

#: A file that fills less of a module is that of another model.
LEAST_SHARE = 0.5


class Loaded(NamedTuple):
    """What was read while files were loaded.

    Args:
        owners (set[int]): ``id`` of each parameter that a file had.
        keys (dict[int, list[str]]): ``id`` of a module that a file was
            loaded into -> names in that file.
        nested (dict[int, list[str]]): The same, those names that stand for
            a dict instead of a tensor.
    """

    owners: Set[int]
    keys: Dict[int, List[str]]
    nested: Dict[int, List[str]]


def init_host_weights(module: nn.Module, trained: Callable[[str],
                                                           bool]) -> Set[str]:
    """Call ``init_weights`` of a host and see what its files filled.

    It looks at what the host's own loader finds, so that prefixes, renamed
    keys and resized position embeddings need no rules here, and no file is
    read twice.

    Args:
        module (nn.Module): The host.
        trained (Callable): Whether a parameter of that name is trained and
            may be missing in the file, such as that of a head.

    Returns:
        set[str]: Names of the parameters that files had.

    Raises:
        ConfigError: If a file of ``init_cfg=dict(type='Pretrained', ...)``
            fills less than half of its module, lacks its ``prefix``, or
            leaves values that are not finite.
    """
    starts = {
        name: (part, init_cfg)
        for name, part in module.named_modules()
        for init_cfg in init_cfgs(part) if is_pretrained(init_cfg)
    }
    try:
        with _watched(module) as loaded:
            module.init_weights()
    except AssertionError as error:
        # mmengine's words for a prefix that no key begins with
        if 'is not in the pretrained model' not in str(error):
            raise
        raise ConfigError(f'init_cfg: {error}. Leave prefix away, or give '
                          'the one that the names in the file begin '
                          'with.') from error
    for name, (part, init_cfg) in starts.items():
        _judge(
            f'{name or "module"}.init_cfg: the file '
            f'{init_cfg.get("checkpoint")}', part, loaded, {
                key: value
                for key, value in part.named_parameters(prefix=name)
                if not trained(key) and not value.is_meta
            }, "Give the prefix: init_cfg=dict(..., prefix='{}'), or, where "
            'the backbone reads the file in its own way, take it out of the '
            'names in the file.')
    return {
        name
        for name, value in module.named_parameters()
        if id(value) in loaded.owners
    }


class LoadWatch:
    """See what a checkpoint fills of a tuned model, from now on.

    Args:
        model (MoSAModel): The model, before the checkpoint is loaded.
        where (str): What names the checkpoint, for the message.
    """

    def __init__(self, model: Any, where: str) -> None:
        self.model = model
        self.where = where
        self._loaded, self._handles = _watch(model)

    def judge(self) -> None:
        """Stop watching, and refuse a host that stayed random.

        What ``init_cfg`` had loaded before counts as filled, and nothing is
        known of a host that was given as a module. Adapters and heads may
        be missing.

        Raises:
            ConfigError: If less than half of the host is filled, or values
                are not finite.
        """
        for handle in self._handles:
            handle.remove()
        wanted = {
            name: value
            for name, value in self.model.named_parameters()
            if not (self.model.is_head(name) or self.model.is_adapter_key(name)
                    or name.startswith(f'{TASKS}.') or value.is_meta)
        }
        self._loaded.owners.update(
            id(value) for name, value in wanted.items()
            if name in self.model.loaded_names)
        _judge(self.where, self.model, self._loaded, wanted,
               "Take '{}' out of the names in the file.")


@contextmanager
def _watched(module: nn.Module) -> Iterator[Loaded]:
    """Record the parameters that are loaded inside."""
    loaded, handles = _watch(module)
    try:
        yield loaded
    finally:
        for handle in handles:
            handle.remove()


def _watch(module: nn.Module) -> Tuple[Loaded, list]:
    """Record the parameters that are loaded until handles are removed."""
    loaded = Loaded(set(), {}, {})

    def look(part: nn.Module, state: dict, prefix: str, *args: Any) -> None:
        if not prefix:
            loaded.keys[id(part)] = list(state)
            loaded.nested[id(part)] = [
                k for k, v in state.items() if isinstance(v, dict) and v
            ]
        for name, value in part._parameters.items():
            given = state.get(prefix + name)
            if value is not None and given is not None and \
                    given.shape == value.shape:
                loaded.owners.add(id(value))

    return loaded, [
        part._register_load_state_dict_pre_hook(look, True)
        for part in module.modules()
    ]


def _judge(where: str, part: nn.Module, loaded: Loaded,
           wanted: Dict[str, nn.Parameter], prefix_cure: str) -> None:
    """Refuse or tell what a file left random in ``wanted`` of ``part``."""
    spoilt = [k for k, v in wanted.items() if not v.isfinite().all()]
    if spoilt:
        raise ConfigError(f'{where} leaves values that are not finite in '
                          f'{_some(spoilt)}. Use a sound file.')
    absent = [k for k, v in wanted.items() if id(v) not in loaded.owners]
    total = sum(v.numel() for v in wanted.values())
    random = sum(wanted[key].numel() for key in absent)
    if not absent or id(part) not in loaded.keys:
        return  # an init_weights of the user may load in its own way
    kind = type(getattr(part, 'module', part)).__name__
    text = f'{where} does not have {_some(absent)}: {random / total:.0%} of ' \
        f'the values that it should fill in {kind} are random'
    given, nested = loaded.keys[id(part)], loaded.nested[id(part)]
    if random > (1 - LEAST_SHARE) * total:
        cure = f'Its weights are under {_some(nested)}: save what stands ' \
            'there as a file of its own.' if nested else \
            _cure(given, list(part.state_dict()), prefix_cure)
        raise ConfigError(f'{text}. Its names are {_some(given)}. {cure}')
    print_log(
        f'{text}, and stay so where they are frozen. Load them by another '
        'file, or train them with train_head=[...].',
        logger='current',
        level=logging.WARNING)


def _cure(given: List[str], own: List[str], prefix_cure: str) -> str:
    """The prefix that is too much or missing, or where names change."""
    known = set(own)
    stems = {key.partition('.')[0] for key in own}
    for key in given:
        stem, _, rest = key.partition('.')
        if rest in known and key not in known:
            return prefix_cure.format(f'{stem}.')
        lacking = next((s for s in sorted(stems) if f'{s}.{key}' in known),
                       None)
        if lacking:
            return f"They lack '{lacking}.', as those of a file of the " \
                f'{lacking} alone: load it by {lacking}=dict(..., init_cfg=' \
                "dict(type='Pretrained', checkpoint=...))."
    return 'Expected a file of this model and size, with names such as ' \
        f'{_some(own)}; the scripts in tools/model_converters rename those ' \
        'of other projects.'


def _some(names: List[str], most: int = 3) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(map(repr, names[:most])) + more
