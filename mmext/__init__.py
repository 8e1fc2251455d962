# Copyright (c) mmext contributors. All rights reserved.
"""Four research methods as plug-ins for the OpenMMLab toolboxes.

Importing this package is cheap: it checks the versions of the hosts that are
installed and installs the shims of :mod:`mmext.compat`, nothing more.
"""
from .compat import install_shims
from .version import __version__

install_shims()


def register_model_zoo() -> list:
    """Let mmpretrain's ``list_models`` and ``get_model`` know our models.

    See :func:`mmext.apis.model_zoo.register_model_zoo`; this one imports it
    when it is called.

    Returns:
        list[str]: The names of our models in the hub.
    """
    from .apis.model_zoo import register_model_zoo as register
    return register()


__all__ = ['__version__', 'register_model_zoo']
