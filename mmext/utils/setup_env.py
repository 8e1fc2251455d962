# Copyright (c) mmext contributors. All rights reserved.
"""Registering everything at once, for mmengine's hub and for scripts."""
from importlib import import_module

_PARTS = ('models', 'datasets', 'evaluation', 'engine', 'visualization',
          'apis')


def register_all_modules(init_default_scope: bool = True) -> None:
    """Import every part of mmext whose host is installed.

    ``type='mmext.X'`` needs no such call: the registries import their parts
    at the first look-up. ``mmengine.hub.get_model('mmext::...')`` calls it.

    Args:
        init_default_scope (bool): Taken for mmengine's sake and without
            effect. Our types are always written with their prefix, and the
            default scope is the host's, as the config says. Defaults to
            True.
    """
    for part in _PARTS:
        import_module(f'mmext.{part}')
