# Copyright (c) mmext contributors. All rights reserved.
"""The JSON beside the weights of an adapter."""
from dataclasses import fields
from pathlib import Path
from typing import Any, Iterator

from mmext.utils.io import CheckpointError
from mmext.version import __version__
from .split_options import SplitOptions

FORMAT, FORMAT_VERSION = 'mmext-adapter', 1
MODEL_OPTIONS = ('inactive', 'num_passes', 'batch_passes', 'train_head',
                 'frozen_backbone_eval', 'seed')
"""Arguments of ``MoSAModel`` that a file records, beside ``loss``."""


class AdapterError(CheckpointError, ValueError):
    """An adapter file does not fit, or is none; nothing was loaded."""


def check_config(cfg: Any, file: Path) -> None:
    """Refuse a description of an adapter that was damaged or changed.

    Args:
        cfg (Any): What the JSON beside the weights holds.
        file (Path): Its path, for the message.

    Raises:
        AdapterError: If it is not what ``save_adapter`` writes.
    """
    keys = {
        'flavour', 'name', 'adapter', 'targets', 'split', 'model', 'host_keys',
        'backbone', 'digest'
    }
    if not isinstance(cfg, dict) or cfg.get('format') != FORMAT:
        raise AdapterError(f'{file} does not describe an adapter of mmext '
                           f'(expected "format": "{FORMAT}").')
    if cfg.get('format_version') != FORMAT_VERSION:
        raise AdapterError(
            f'{file} has format version {cfg.get("format_version")!r}, but '
            f'this mmext ({__version__}) reads {FORMAT_VERSION}. Install the '
            'version that wrote it, see "versions" in the file.')
    missing = sorted(keys - set(cfg))
    if missing:
        raise AdapterError(f'{file} lacks {", ".join(missing)}.')
    wrong = [
        f'"{key}" is {cfg[key]!r}, expected {name}' for key, kind, name in (
            ('name', str, 'a string'),
            ('adapter', dict, 'an object'),
            ('split', dict, 'an object'),
            ('model', dict, 'an object'),
            ('backbone', dict, 'an object'),
            ('host_keys', list, 'a list'),
            ('rng_seed', int, 'a whole number'),
        ) if key in cfg and not isinstance(cfg[key], kind)
    ]
    wrong = wrong or list(_wrong_parts(cfg))
    if wrong:
        raise AdapterError(
            f'{file} was changed since save_adapter wrote it: '
            f'{"; ".join(wrong)} (of JSON). Undo the change, or fetch or '
            'save the adapter again.')


def _wrong_parts(cfg: dict) -> Iterator[str]:
    if cfg['flavour'] not in ('training', 'merged'):
        yield f'"flavour" is {cfg["flavour"]!r}, expected training or merged'
    absent = {'type', 'tensors', 'parameters', 'layout', 'values'
              }.difference(cfg['backbone'])
    if absent:
        yield f'"backbone" lacks {", ".join(sorted(absent))}'
    # Others would go to the model too, and some of those are configs, by
    # which a file could have any function called.
    for key, known in (('model', {*MODEL_OPTIONS, 'loss'}),
                       ('split', {field.name
                                  for field in fields(SplitOptions)})):
        unknown = sorted(set(cfg[key]) - known)
        if unknown:
            yield f'"{key}" has unknown keys: {", ".join(unknown)}'
    if not all(isinstance(key, str) for key in cfg['host_keys']):
        yield '"host_keys" are no strings'
    options = cfg.get('optimizer', dict(numbers={}, groups=[]))
    if not isinstance(options, dict) or \
            not isinstance(options.get('numbers'), dict) or \
            not isinstance(options.get('groups'), list) or \
            not all('/' in key for key in options['numbers']):
        yield (f'"optimizer" is {options!r}, expected an object with an '
               'object "numbers" (STATE/PARAMETER) and a list "groups"')
