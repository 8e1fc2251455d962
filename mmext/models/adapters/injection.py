# Copyright (c) mmext contributors. All rights reserved.
"""Find the places in a host, build the adapters, put them in."""
import inspect
import re
from dataclasses import fields
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch.nn as nn

from mmext.utils.arguments import is_count, is_number
from mmext.utils.user_error import ConfigError
from .attention_low_rank import AttentionLoRA
from .blocks import AdaptedBlock
from .bottleneck import AdaptFormer, Houlsby, Pfeiffer
from .low_rank import LoRA
from .slots import (SLOT, AdaptedModule, adapted_class, attach, convert,
                    known_hosts, slots)
from .split_options import SplitOptions
from .tuning import bias_names, scale_shift_for

BOTTLENECKS = dict(
    AdaptFormer=AdaptFormer, Pfeiffer=Pfeiffer, Houlsby=Houlsby)
PLAIN = ('BitFit', 'SSF', 'LinearProbe', 'FullFineTune')
ADAPTER_TYPES = (*BOTTLENECKS, 'LoRA', *PLAIN)
_SPLIT_KEYS = {field.name for field in fields(SplitOptions)}
# Options of LoRA that are not passed on to the layers.
_LORA_KEYS = {'targets'}


def find_blocks(host: nn.Module) -> List[Tuple[str, nn.Module]]:
    """All transformer blocks that a binding knows, in execution order."""
    found = []
    for name, module in host.named_modules():
        adapted = adapted_class(module)
        if adapted is not None and issubclass(adapted, AdaptedBlock):
            found.append((name, module))
    return found


def block_type(block: nn.Module) -> type:
    """The host's class of a block, adapted or not."""
    return block.host_type if isinstance(block, AdaptedModule) else \
        type(block)


def matches(pattern: str, name: str, block: nn.Module) -> bool:
    """Whether a target's pattern names a block: type, regex or suffix."""
    return (block_type(block).__name__ == pattern
            or re.fullmatch(pattern, name) is not None or name == pattern
            or name.endswith('.' + pattern))


# What options of adapters may be, and how an error says so.
_VALUES = dict(
    bottleneck=(is_count, 'a whole number of at least 1'),
    rank=(is_count, 'a whole number of at least 1'),
    scale=(lambda v: v is None or is_number(v), 'a number, or None'),
    drop_rate=(lambda v: is_number(v, 0) and v < 1, 'a number in [0, 1)'),
    act_cfg=(lambda v: isinstance(v, dict), 'a dict like dict(type="GELU")'))


def check_pattern(pattern: str, option: str) -> None:
    """Refuse what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f'{option}: {pattern!r} is no regular expression '
                          f'({error}). A point and a star, ".*", stand for '
                          'any text.') from error


def select_blocks(
        blocks: Sequence[Tuple[str, nn.Module]],
        targets: Optional[Sequence[dict]]) -> List[Tuple[str, Any, dict]]:
    """Choose blocks and the options that each target overrides.

    Args:
        blocks (Sequence): Names and blocks.
        targets (Sequence[dict], optional): Each with ``pattern`` (a class
            name, a regular expression of the whole name, or a suffix of it)
            and overrides; the first that fits counts. None takes all.

    Returns:
        list[tuple]: Name, block, overrides.

    Raises:
        ConfigError: If a target fits no block.
    """
    if targets is None:
        return [(name, block, {}) for name, block in blocks]
    targets = [dict(pattern=t) if isinstance(t, str) else t for t in targets]
    if not targets:
        raise ConfigError('targets is empty, so that nothing would get an '
                          'adapter. Leave it out to adapt every block.')
    for target in targets:
        if not isinstance(target, dict) or \
                not isinstance(target.get('pattern'), str):
            raise ConfigError(
                "A target is a dict with a 'pattern' (class name, regular "
                f'expression or suffix) and overrides, but got {target!r}.')
        check_pattern(target['pattern'], 'targets')
    chosen, used = [], set()
    for name, block in blocks:
        for i, target in enumerate(targets):
            if matches(target['pattern'], name, block):
                options = {k: v for k, v in target.items() if k != 'pattern'}
                chosen.append((name, block, options))
                used.add(i)
                break
    idle = [t['pattern'] for i, t in enumerate(targets) if i not in used]
    if idle:
        names = [name for name, _ in blocks]
        kinds = sorted({block_type(block).__name__ for _, block in blocks})
        raise ConfigError(
            f'No block is left for the target pattern(s) {idle}. Blocks are '
            f'named {_shown(names)} and of type {", ".join(kinds)}; a '
            'pattern is a class name, a regular expression of the whole '
            'name, or a suffix of it, and the first that fits counts.')
    return chosen


def _shown(names: Sequence[str]) -> str:
    return ', '.join(names) if len(names) < 5 else \
        f'{names[0]}, {names[1]}, ..., {names[-1]}'


def plain(value: Any) -> Any:
    """A config value without config types, fit for any file."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


class Plan:
    """What an adapter config asks for, checked before anything changes.

    Args:
        adapter (dict): ``dict(type=..., **options)``.
        split (dict): Options of
            :class:`~mmext.models.adapters.split_options.SplitOptions`.
        targets (Sequence[dict], optional): See :func:`select_blocks`.

    Raises:
        ConfigError: For an unknown type or option.
    """

    def __init__(self,
                 adapter: dict,
                 split: Dict[str, Any],
                 targets: Optional[Sequence[dict]] = None) -> None:
        if not isinstance(adapter, dict):
            raise ConfigError(
                'adapter is a dict of a type and its options, such as '
                f"dict(type='AdaptFormer', bottleneck=64), but got "
                f'{adapter!r}.')
        options = dict(adapter)
        self.type = options.pop('type', None)
        if self.type not in ADAPTER_TYPES:
            raise ConfigError(
                f'adapter.type is one of {", ".join(ADAPTER_TYPES)}, but got '
                f'{self.type!r}.')
        self.split = dict(split)
        if 'fixed_mask' in options:
            self.split['fixed_mask'] = options.pop('fixed_mask')
        self.options = options
        self.targets = [targets] if isinstance(targets,
                                               (str, dict)) else targets
        SplitOptions(**self.split)
        self._check(options, 'adapter')

    @property
    def trains_all(self) -> bool:
        """bool: Whether nothing is frozen."""
        return self.type == 'FullFineTune'

    def accepted(self) -> set:
        """Names of the options of this adapter type."""
        if self.type in BOTTLENECKS or self.type == 'LoRA':
            cls = BOTTLENECKS.get(self.type, LoRA)
            given = {
                'self', 'width', 'options', 'name', 'norm', 'layer', 'letters'
            }
            names = set(inspect.signature(cls.__init__).parameters) - given
            return names | (_LORA_KEYS if cls is LoRA else set())
        return set()

    def _check(self, options: dict, where: str) -> None:
        unknown = sorted(set(options) - self.accepted())
        if unknown:
            known = ', '.join(sorted(self.accepted())) or 'no option'
            raise ConfigError(f'{where}: type={self.type!r} takes {known}, '
                              f'but got {", ".join(unknown)}.')
        for key, (fits, expected) in _VALUES.items():
            if key in options and not fits(options[key]):
                raise ConfigError(f'{where}.{key} is {expected}, but got '
                                  f'{options[key]!r}.')
        if self.type == 'LoRA' and options.get('scale', 1.) is None:
            raise ConfigError(f'{where}.scale of LoRA is a number; only '
                              'bottleneck adapters learn theirs (None).')
        if self.split.get('fixed_mask') and not self.accepted():
            raise ConfigError(f'fixed_mask has no effect on {self.type}, '
                              'which has no layers to split.')

    def _resolve(self, overrides: dict) -> Tuple[dict, dict]:
        """Adapter and split options of one target."""
        split = {k: v for k, v in overrides.items() if k in _SPLIT_KEYS}
        own = {k: v for k, v in overrides.items() if k not in _SPLIT_KEYS}
        self._check(own, 'targets')
        return dict(self.options, **own), dict(self.split, **split)

    def inject(self, host: nn.Module, name: str) -> None:
        """Build the adapters and attach them under ``name``.

        Everything is built before anything is attached, so an error leaves
        the host as it was.

        Args:
            host (nn.Module): The model.
            name (str): Name of the adapter.

        Raises:
            ConfigError: If no block is known, or a target fits none.
        """
        if self.type in ('LinearProbe', 'FullFineTune', 'BitFit'):
            if self.targets is not None:
                raise ConfigError(f'type={self.type!r} takes no targets.')
            return
        if self.type == 'SSF':
            ready = self._scale_shift(host)
        else:
            ready = self._adapters(host, name)
        readers = []
        for module, cls, adapter, reader in ready:
            attach(module, cls, name, adapter)
            if reader is not None:
                readers.append(reader)
        for reader in readers:
            convert(reader, adapted_class(reader))

    def _adapters(self, host: nn.Module, name: str) -> list:
        blocks = find_blocks(host)
        if not blocks:
            known = sorted(known_hosts(
                lambda cls: issubclass(cls, AdaptedBlock)))
            raise ConfigError(
                f'{type(host).__name__} has no transformer block that MoSA '
                f'knows. Known blocks: {", ".join(known) or "none"}. '
                'Install the host toolbox of the backbone, or use a backbone '
                'made of these blocks.')
        ready = []
        for path, block, overrides in select_blocks(blocks, self.targets):
            options, split = self._resolve(overrides)
            split = SplitOptions(**split)
            if self.type == 'LoRA':
                ready += self._low_rank(path, block, options, split, name)
                continue
            cls = adapted_class(block)
            if self.type not in cls.styles:
                raise ConfigError(
                    f'{block_type(block).__name__} ({path}) carries '
                    f'{", ".join(cls.styles)}, but not {self.type}.')
            adapter = BOTTLENECKS[self.type](
                cls.width(block), split, f'{path}.{SLOT}.{name}',
                cls.adapter_norm, **options)
            ready.append((block, cls, adapter, None))
        return ready

    def _low_rank(self, path: str, block: nn.Module, options: dict,
                  split: SplitOptions, name: str) -> list:
        letters = options.pop('targets', 'qv')
        if not letters or set(letters) - set('qkvo') or \
                len(set(letters)) != len(letters):
            raise ConfigError("adapter.targets of type='LoRA' names some of "
                              f"the letters 'qkvo', but got {letters!r}.")
        paths = adapted_class(block).attention
        if 'whole' in paths:
            layer = block.get_submodule(paths['whole'])
            adapter = AttentionLoRA(
                layer, letters, split,
                f'{path}.{paths["whole"]}.{SLOT}.{name}', **options)
            return [(layer, adapted_class(layer), adapter, None)]
        if not paths:
            raise ConfigError(
                f'{block_type(block).__name__} ({path}) does not say where '
                "its attention is, which type='LoRA' needs. Use AdaptFormer, "
                'Pfeiffer or Houlsby on it.')
        qkv = ''.join(letter for letter in 'qkv' if letter in letters)
        ready = []
        for part, used in (('qkv', qkv), ('o', 'o' if 'o' in letters else '')):
            if not used:
                continue
            layer = block.get_submodule(paths[part])
            adapter = LoRA(layer, used, split,
                           f'{path}.{paths[part]}.{SLOT}.{name}', **options)
            reader = None if adapter.foldable else block.get_submodule(
                paths['module'])
            ready.append((layer, adapted_class(layer), adapter, reader))
        return ready

    def _scale_shift(self, host: nn.Module) -> list:
        """Behind every linear layer, norm and convolution of the backbone."""
        if self.targets is not None:
            raise ConfigError("type='SSF' takes no targets.")
        backbone = getattr(host, 'backbone', host)
        bypassed = set()
        for module in backbone.modules():
            if isinstance(module, nn.MultiheadAttention):
                # It reads the weights of its layers, not their outputs.
                bypassed |= set(module.modules())
        for _, slot in slots(backbone):
            bypassed |= set(slot.modules())
        for _, block in find_blocks(host):
            bypassed |= {
                block.get_submodule(path)
                for path in adapted_class(block).reads_weights_of
            }
        ready = []
        for module in backbone.modules():
            if isinstance(module, (nn.Linear, nn.LayerNorm, nn.Conv2d)) \
                    and module not in bypassed:
                if 'LayerNorm2d' in [c.__name__ for c in type(module).__mro__]:
                    raise ConfigError(
                        "type='SSF' scales the last axis behind a norm, but "
                        f'the channels of {block_type(module).__name__} may '
                        'be on another. Use another adapter on this host.')
                ready.append((module, adapted_class(module),
                              scale_shift_for(module), None))
        return ready

    def trainable_names(self, host: nn.Module) -> List[str]:
        """Parameters of the host itself that this type trains."""
        if self.trains_all:
            return [name for name, _ in host.named_parameters()]
        if self.type == 'BitFit':
            prefix = 'backbone.' if hasattr(host, 'backbone') else ''
            backbone = getattr(host, 'backbone', host)
            return [prefix + name for name in bias_names(backbone)]
        return []
